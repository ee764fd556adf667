-- Units: milliseconds. Gives a whole hold back, the request of the last minute too: nothing was used.
--
-- A hold that does not exist is closed as well: a reserve still on its way (its caller gave up waiting) then takes none.
-- Returns what the hold was: held, expired, none, released or settled; the last two are left as they are.
local id, keep_ms = ARGV[1], ARGV[2]
local hold = read_hold(id)
local was = hold and hold.state or 'none'
if was == 'settled' or was == 'released' then return was end
if was == 'held' then
  post_held(hold, hold.tokens, hold.nano_usd, -1)
elseif was == 'expired' then
  post_used(hold, hold.tokens, hold.nano_usd, -1)
end
if hold then remove_from_minute(id, hold.tokens) end
close(id, 'released', hold or {}, keep_ms)
return was
