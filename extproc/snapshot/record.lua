-- Units: milliseconds. KEYS[1] is the log of changes, KEYS[2] belongs to one entry's id; both in one slot.
--
-- Arguments: log entry, entries kept, how long the id is remembered. Returns the entry first logged under this id, or
-- nothing: then this one was logged.
local known = redis.call('GET', KEYS[2])
if known then return known end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'entry', ARGV[1])
return false
