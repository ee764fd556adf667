-- Units: tokens; nano-USD (1e-9 USD); milliseconds since the epoch.
--
-- Charges holds whose lease has ended as held, at most `most` of them, and returns all that are not yet acknowledged as
-- {id, tokens, nano-USD or empty, output tokens, reserved at, day, month}. Arguments from 3 on are ids acknowledged.
-- An expired hold is kept as long as its month, so that a late settlement can still correct it; one that was corrected
-- has no amounts any more and is not told again.
local now_ms, most = ARGV[1], tonumber(ARGV[2])
for i = 3, #ARGV do redis.call('ZREM', unreconciled, ARGV[i]) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now_ms, 'LIMIT', 0, most)) do
  local hold = read_hold(id)
  redis.call('ZREM', leases, id)
  if hold and hold.state == 'held' then
    post_held(hold, hold.tokens, hold.nano_usd, -1)
    post_used(hold, hold.tokens, hold.nano_usd, 1)
    redis.call('HSET', hold_key(id), 'state', 'expired')
    redis.call('ZADD', unreconciled, now_ms, id)
    redis.call('PEXPIREAT', unreconciled, hold.monthly_until)
  end
end
local rows = {}
for _, id in ipairs(redis.call('ZRANGE', unreconciled, 0, most - 1)) do
  local row = redis.call('HMGET', hold_key(id), 'tokens', 'nano_usd', 'output_tokens', 'at_ms', 'daily', 'monthly')
  if row[1] then
    table.insert(row, 1, id)
    table.insert(rows, row)
  else
    redis.call('ZREM', unreconciled, id)
  end
end
return rows
