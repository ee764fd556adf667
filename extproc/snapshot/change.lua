-- KEYS[1] is "{gw:overrides}", a hash: `version`, and one field per changed team. KEYS[1]:log is the log of changes,
-- a stream. One slot, so a change and its log entry are one.
--
-- Arguments: the version the change was made against, field, its new value (empty: delete it), log entry, entries kept.
-- Returns the new version, or 0 if another change came first.
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or 0)
if version ~= tonumber(ARGV[1]) then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[2]) else redis.call('HSET', KEYS[1], ARGV[2], ARGV[3]) end
redis.call('XADD', KEYS[1] .. ':log', 'MAXLEN', '~', ARGV[5], '*', 'entry', ARGV[4])
return redis.call('HINCRBY', KEYS[1], 'version', 1)
