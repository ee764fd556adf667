-- Units: tokens; nano-USD (1e-9 USD); milliseconds. An empty argument: no limit, or price not known.
--
-- Turns holds, each once, into what was really used, in the windows they were made in; charges the windows given where
-- there is no hold (it was made while the ledger was away, or released before); corrects the charge of an expired one.
-- Repeated: charges nothing, returns the same crossings again, so that an alert survives a settler that died.
-- ARGV from 11 on: id, tokens and nano-USD of each hold, then thresholds in percent.
-- Returns {what each hold was, crossings as {window, its id, unit, threshold in percent, used, limit}}.
local keep_ms, count = ARGV[1], tonumber(ARGV[10])
local given = table.concat({ARGV[2], ARGV[3], ARGV[4], ARGV[5]}, '|')
local limits = {daily_tokens = ARGV[6], monthly_tokens = ARGV[7], daily_nano_usd = ARGV[8], monthly_nano_usd = ARGV[9]}
local ids, keys, thresholds = {}, {minute_sums}, 11 + 3 * count
for at = 11, thresholds - 1, 3 do
  ids[#ids + 1] = ARGV[at]
  keys[#keys + 1] = hold_key(ARGV[at])
end

local found = redis.call('MGET', unpack(keys))
local last_minute, was, ours, looked_at = parse_minute(found[1]), {}, {}, {}
for i, id in ipairs(ids) do
  local hold, tokens, nano_usd = parse_hold(found[i + 1]), tonumber(ARGV[9 + 3 * i]), tonumber(ARGV[10 + 3 * i])
  local state = hold and hold.state or 'none'
  local windows = (state == 'none' or state == 'released') and given or hold.windows
  was[i], ours[id] = state, true
  if state ~= 'settled' then
    add_used(windows, tokens, nano_usd, 1)
    if state == 'held' then
      give_back(hold)
      correct_minute(last_minute, id, hold, tokens)
    elseif state == 'expired' then
      add_used(windows, hold.tokens, hold.nano_usd, -1)
    end
    close(id, 'settled', windows, keep_ms)
  end
  looked_at[windows] = true -- a repetition's too: what they passed is told again
end
redis.call('ZREM', leases, unpack(ids))
if last_minute.changed then write_minute(last_minute) end
save()

-- The first hold that finds a threshold passed puts its name there: one alert per window, by one replica.
local crossings = {}
local function look(window, unit, used, topup, threshold)
  local limit = tonumber(limits[window.kind .. '_' .. unit])
  if not limit or limit + topup <= 0 or used * 100 < (limit + topup) * threshold then return end
  local flag = 'alert:' .. unit .. ':' .. threshold
  redis.call('HSETNX', window.key, flag, ids[1])
  if ours[redis.call('HGET', window.key, flag)] then
    table.insert(crossings, {window.kind, window.id, unit, threshold, used, integer(limit + topup)})
  end
end
local seen = {}
for windows in pairs(looked_at) do
  for _, each in ipairs(parse_windows(windows)) do
    if not seen[each.key] then
      seen[each.key], seen[#seen + 1], each.counts = true, each, counters(each.key)
    end
  end
end
for i = thresholds, #ARGV do
  for _, each in ipairs(seen) do
    look(each, 'tokens', each.counts[1], each.counts[3], ARGV[i])
    look(each, 'nano_usd', each.counts[4], each.counts[6], ARGV[i])
  end
end
return {was, crossings}
