-- Units: milliseconds. Gives a whole hold back, the request of the last minute too: nothing was used.
--
-- A hold that does not exist is closed as well: a reserve still on its way (its caller gave up waiting) then takes none.
-- Returns what the hold was: held, expired, none, released or settled; the last two are left as they are.
local id, keep_ms = ARGV[1], ARGV[2]
local found = redis.call('MGET', hold_key(id), minute_sums)
local hold = parse_hold(found[1])
local was = hold and hold.state or 'none'
if was == 'settled' or was == 'released' then return was end
if hold then
  if was == 'held' then give_back(hold) else add_used(hold.windows, hold.tokens, hold.nano_usd, -1) end
  save()
  local of = parse_minute(found[2])
  correct_minute(of, id, hold, nil)
  if of.changed then write_minute(of) end
end
redis.call('ZREM', leases, id)
close(id, 'released', hold and hold.windows or '|||', keep_ms)
return was
