-- Units: tokens; nano-USD (1e-9 USD); milliseconds. An empty argument: no limit, or price not known.
--
-- Turns a hold into what was really used, in the windows the hold was made in; charges the windows given when there is
-- no hold (it was made while the ledger was away, or released before); corrects the charge of an expired one.
-- Repeated: charges nothing, returns the same crossings again, so that an alert survives a settler that died.
-- Returns {what the hold was, crossings as {window, its id, unit, threshold in percent, used, limit}}.
local id, tokens, nano_usd, keep_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local given = {daily = ARGV[5], daily_until = ARGV[6], monthly = ARGV[7], monthly_until = ARGV[8]}
local limits = {daily_tokens = ARGV[9], monthly_tokens = ARGV[10], daily_nano_usd = ARGV[11], monthly_nano_usd = ARGV[12]}
local FIRST_THRESHOLD = 13

local hold = read_hold(id)
local was = hold and hold.state or 'none'
local charged = hold
if was == 'held' then
  post_held(hold, hold.tokens, hold.nano_usd, -1)
  if remove_from_minute(id, hold.tokens) then add_to_minute(id, hold.at_ms, tokens) end
elseif was == 'expired' then
  post_used(hold, hold.tokens, hold.nano_usd, -1)
elseif was ~= 'settled' then
  charged = given
end
if was ~= 'settled' then
  post_used(charged, tokens, nano_usd, 1)
  close(id, 'settled', charged, keep_ms)
end

-- The first hold that finds a threshold passed puts its name there: one alert per window, by one replica.
local crossings = {}
local function look(kind, window, unit, threshold)
  local limit = tonumber(limits[kind .. '_' .. unit])
  if not limit then return end
  local key = window(charged[kind])
  local counts = redis.call('HMGET', key, 'used_' .. unit, 'topup_' .. unit)
  limit = limit + (counts[2] or 0)
  if limit <= 0 or (counts[1] or 0) * 100 < limit * threshold then return end
  local flag = 'alert:' .. unit .. ':' .. threshold
  redis.call('HSETNX', key, flag, id)
  if redis.call('HGET', key, flag) == id then
    table.insert(crossings, {kind, charged[kind], unit, threshold, counts[1], integer(limit)})
  end
end
for i = FIRST_THRESHOLD, #ARGV do
  for _, unit in ipairs({'tokens', 'nano_usd'}) do
    look('daily', daily, unit, ARGV[i])
    look('monthly', monthly, unit, ARGV[i])
  end
end
return {was, crossings}
