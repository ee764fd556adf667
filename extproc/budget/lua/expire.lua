-- Units: tokens; nano-USD (1e-9 USD); milliseconds since the epoch.
--
-- Charges holds whose lease has ended as held, at most `most` of them, and returns all that are not yet acknowledged as
-- {id, tokens, nano-USD or empty, output tokens, reserved at}. Arguments from 3 on are ids acknowledged.
-- An expired hold is kept as long as its month, so that a late settlement can still correct it; one that was corrected
-- has no amounts any more and is not told again.
local now_ms, most = ARGV[1], tonumber(ARGV[2])
for i = 3, #ARGV do redis.call('ZREM', unreconciled, ARGV[i]) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now_ms, 'LIMIT', 0, most)) do
  local text = redis.call('GET', hold_key(id))
  local hold = parse_hold(text)
  redis.call('ZREM', leases, id)
  if hold and hold.state == 'held' then
    give_back(hold)
    add_used(hold.windows, hold.tokens, hold.nano_usd, 1)
    local until_ms = parse_windows(hold.windows)[2].until_ms
    redis.call('SET', hold_key(id), (string.gsub(text, '^held', 'expired')), 'PXAT', until_ms)
    redis.call('ZADD', unreconciled, now_ms, id)
    redis.call('PEXPIREAT', unreconciled, until_ms)
  end
end
save()
local rows = {}
for _, id in ipairs(redis.call('ZRANGE', unreconciled, 0, most - 1)) do
  local hold = parse_hold(redis.call('GET', hold_key(id)))
  if hold and hold.tokens then
    table.insert(rows, {id, integer(hold.tokens), hold.nano_usd and integer(hold.nano_usd) or '', hold.output_tokens,
                        hold.at_ms})
  else
    redis.call('ZREM', unreconciled, id)
  end
end
return rows
