-- Units: tokens; nano-USD (1e-9 USD); milliseconds since the epoch. Changes no amount.
--
-- Returns {open holds, requests, tokens and newest of the last minute joined by "|", counters of the day, of the month}.
local now_ms = tonumber(ARGV[1])
local last = parse_minute(redis.call('GET', minute_sums))
drop_old(last, now_ms)
if last.changed then write_minute(last) end
return {redis.call('ZCARD', leases), last.text,
        counters(base .. ':daily:' .. ARGV[2]), counters(base .. ':monthly:' .. ARGV[3])}
