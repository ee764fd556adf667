-- Units: bytes. Keeps the vectors of an entry's text beside it, for as long as it lives; they count as its own bytes.
-- Returns 1, or 0 if there is no such entry.
local key, value = ARGV[1], ARGV[2]
local known = redis.call('HGET', about, key)
if not known then return 0 end
local more = #value - redis.call('HSTRLEN', vectors, key)
local size, rest = string.match(known, '^(%d+)(.*)$')
redis.call('HSET', vectors, key, value)
redis.call('HSET', about, key, (tonumber(size) + more) .. rest)
redis.call('INCRBY', bytes, more)
redis.call('PEXPIRE', vectors, redis.call('PTTL', about))
return 1
