-- Units: tokens; nano-USD (1e-9 USD); milliseconds. An empty argument: no limit, or price not known.
--
-- Turns holds, each once, into what was really used, in the windows they were made in; charges the windows given where
-- there is no hold (it was made while the ledger was away, or released before); corrects the charge of an expired one.
-- Repeated: charges nothing, returns the same crossings again, so that an alert survives a settler that died.
-- ARGV from 11 on: id, tokens and nano-USD of each hold, then thresholds in percent.
-- Returns {what each hold was, crossings as {window, its id, unit, threshold in percent, used, limit}}.
local keep_ms, count = ARGV[1], tonumber(ARGV[10])
local given = {daily = ARGV[2], daily_until = ARGV[3], monthly = ARGV[4], monthly_until = ARGV[5]}
local limits = {daily_tokens = ARGV[6], monthly_tokens = ARGV[7], daily_nano_usd = ARGV[8], monthly_nano_usd = ARGV[9]}
local ids, keys, bills, thresholds = {}, {minute_sums}, {}, 11 + 3 * count
for at = 11, thresholds - 1, 3 do
  ids[#ids + 1] = ARGV[at]
  keys[#keys + 1] = hold_key(ARGV[at])
  bills[ARGV[at]] = {tokens = tonumber(ARGV[at + 1]), nano_usd = tonumber(ARGV[at + 2])}
end

-- Windows are read once and written once, whatever number of holds they are charged with.
local days, months = {}, {}
local found = redis.call('MGET', unpack(keys))
local last_minute, was = parse_minute(found[1]), {}
for i, id in ipairs(ids) do
  local hold, bill = parse_hold(found[i + 1]), bills[id]
  local state = hold and hold.state or 'none'
  local charged = (state == 'none' or state == 'released') and given or hold
  local day, month = days[charged.daily] or daily(charged), months[charged.monthly] or monthly(charged)
  days[charged.daily], months[charged.monthly], was[i] = day, month, state
  if state ~= 'settled' then
    local changes = {}
    add_used(changes, bill.tokens, bill.nano_usd, 1)
    if state == 'held' then
      add_held(changes, hold, -1)
      correct_minute(last_minute, id, hold, bill.tokens)
    elseif state == 'expired' then
      add_used(changes, hold.tokens, hold.nano_usd, -1)
    end
    add(day, changes)
    add(month, changes)
    close(id, 'settled', charged, keep_ms)
  end
end
redis.call('ZREM', leases, unpack(ids))
if last_minute.changed then write_minute(last_minute) end
for _, windows in ipairs({days, months}) do
  for _, each in pairs(windows) do save(each) end
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
  redis.call('HSETNX', window.key, flag, ids[1])
  if bills[redis.call('HGET', window.key, flag)] then
    table.insert(crossings, {kind, window.id, unit, threshold, used, integer(limit)})
  end
end
for i = thresholds, #ARGV do
  for _, unit in ipairs({'tokens', 'nano_usd'}) do
    for _, day in pairs(days) do look('daily', day, unit, ARGV[i]) end
    for _, month in pairs(months) do look('monthly', month, unit, ARGV[i]) end
  end
end
return {was, crossings}
