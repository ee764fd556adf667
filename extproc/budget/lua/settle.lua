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

local found = redis.call('MGET', hold_key(id), minute_sums)
local hold = parse_hold(found[1])
local was = hold and hold.state or 'none'
local charged = (was == 'none' or was == 'released') and given or hold
local day, month = daily(charged), monthly(charged)
if was ~= 'settled' then
  local changes = {}
  add_used(changes, tokens, nano_usd, 1)
  if was == 'held' then
    add_held(changes, hold, -1)
    correct_minute(found[2], id, hold, tokens)
  elseif was == 'expired' then
    add_used(changes, hold.tokens, hold.nano_usd, -1)
  end
  post(day, changes)
  post(month, changes)
  close(id, 'settled', charged, keep_ms)
end

-- The first hold that finds a threshold passed puts its name there: one alert per window, by one replica.
local crossings = {}
local function look(kind, window, unit, threshold)
  local limit = tonumber(limits[kind .. '_' .. unit])
  if not limit then return end
  local first = unit == 'tokens' and 1 or 4
  local used, topup = window.counts[first], window.counts[first + 2]
  limit = limit + (topup or 0)
  if limit <= 0 or (used or 0) * 100 < limit * threshold then return end
  local flag = 'alert:' .. unit .. ':' .. threshold
  redis.call('HSETNX', window.key, flag, id)
  if redis.call('HGET', window.key, flag) == id then
    table.insert(crossings, {kind, charged[kind], unit, threshold, used, integer(limit)})
  end
end
for i = FIRST_THRESHOLD, #ARGV do
  for _, unit in ipairs({'tokens', 'nano_usd'}) do
    look('daily', day, unit, ARGV[i])
    look('monthly', month, unit, ARGV[i])
  end
end
return {was, crossings}
