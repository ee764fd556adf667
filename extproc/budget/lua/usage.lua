-- Units: tokens; nano-USD (1e-9 USD); milliseconds since the epoch. Changes no amount.
--
-- Returns {open holds, {requests, tokens, reset} of the last minute, day, month}.
local now_ms = tonumber(ARGV[1])
return {redis.call('ZCARD', leases), {read_minute(now_ms)}, read(daily(ARGV[2])), read(monthly(ARGV[3]))}
