-- Units: bytes; milliseconds since the epoch, `ttl_ms` from now.
--
-- Keeps an entry: whole or not at all. What was used for longest goes until it fits into `most` bytes. Not kept if it
-- alone does not fit, or if its answer was asked for before the like of it was deleted. Ends the flight in any case.
-- Returns {what came of it: kept, oversized or purged; entries that had to go; bytes of the partition}.
local key, value, now_ms, ttl_ms, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local team, model, id, asked_ms = ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local size = #value
local evicted = 0

local function answer(what) return {what, evicted, tonumber(redis.call('GET', bytes) or 0)} end

land(key, id)
for _, at_ms in ipairs(redis.call('HMGET', purged, '*', 'model:' .. model, 'key:' .. key)) do
  if at_ms and tonumber(at_ms) >= asked_ms then return answer('purged') end
end
if size > most then return answer('oversized') end

forget_ended(now_ms, 100)
forget(key)
while tonumber(redis.call('GET', bytes) or 0) + size > most do
  local oldest = redis.call('ZRANGE', used, 0, 0)[1]
  if not oldest then
    redis.call('SET', bytes, 0)  -- the sum has lost its entries (some of the keys were deleted by hand)
    break
  end
  evicted = evicted + forget(oldest)
  redis.call('ZREM', used, oldest)
end

redis.call('SET', entry(key), value, 'PX', ttl_ms)
redis.call('ZADD', used, now_ms, key)
redis.call('ZADD', ends, now_ms + ttl_ms, key)
redis.call('HSET', about, key, size .. ' ' .. now_ms .. ' ' .. team .. ' ' .. model)
redis.call('INCRBY', bytes, size)
-- The lists live a little longer than what they list.
if redis.call('PTTL', about) < ttl_ms then
  for _, list in ipairs({used, ends, about, bytes, vectors}) do redis.call('PEXPIRE', list, ttl_ms + 60000) end
end
return answer('kept')
