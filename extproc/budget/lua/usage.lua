-- Units: tokens; nano-USD (1e-9 USD); milliseconds since the epoch. Changes no amount.
--
-- Returns {open holds, {requests, tokens, reset} of the last minute, day, month}.
local now_ms = tonumber(ARGV[1])
local last = parse_minute(redis.call('GET', minute_sums))
drop_old(last, now_ms)
if last.changed then write_minute(last) end
return {redis.call('ZCARD', leases), {last.requests, last.tokens, reset_ms(last, now_ms)},
        window('daily', ARGV[2]).counts, window('monthly', ARGV[3]).counts}
