-- Units: tokens or nano-USD (1e-9 USD); milliseconds since the epoch. Adds a one-off top-up to one window.
--
-- Arguments: grant id, daily|monthly, window id, kept until, tokens|nano_usd, amount. Repeated with the same id: no
-- second top-up. Returns {1 if this call granted it, all top-ups of that window}.
local key = base .. ':' .. ARGV[2] .. ':' .. ARGV[3]
local field = 'topup_' .. ARGV[5]
local granted = redis.call('HSETNX', key, 'grant:' .. ARGV[1], ARGV[6])
if granted == 1 then redis.call('HINCRBY', key, field, ARGV[6]) end
redis.call('PEXPIREAT', key, ARGV[4])
return {granted, redis.call('HGET', key, field)}
