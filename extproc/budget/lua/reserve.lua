-- Units: tokens; nano-USD (1e-9 USD), output price in pico-USD (1e-12) per token; milliseconds since the epoch.
-- The argument is the values below, one after the other in MessagePack. nil: no limit, or price not known.
--
-- Takes a hold of input + output on the team's day, month and last minute: all or nothing, the output clamped to what
-- the tightest limit has left, never below `least`. A refusal changes nothing. Repeated: the same grant, no second hold.
-- Returns, joined by "|": admitted (now), held (before), refused or closed; output tokens granted; limits without room,
-- joined by ","; requests, tokens and newest of the last minute; wait for a request and for tokens; the counters of the
-- day and of the month, as they were before the hold.
local id, now_ms, lease_until, input, ceiling, least, input_usd, output_pico_usd, day_id, day_until, month_id, month_until,
      daily_tokens, monthly_tokens, daily_usd, monthly_usd, requests_limit, tokens_limit = cmsgpack.unpack(ARGV[1])
local REFRESH_MS = 15000 -- the expiry of `minute` is pushed on this often, and is far longer

local day, month = base .. ':daily:' .. day_id, base .. ':monthly:' .. month_id
local found = redis.call('MGET', hold_key(id), minute_sums)
local known, last = parse_hold(found[1]), parse_minute(found[2])
drop_old(last, now_ms)
local d, m = counters(day), counters(month)

local function answer(name, granted, refused, request_wait, tokens_wait)
  if last.changed then write_minute(last) end
  return name .. '|' .. granted .. '|' .. refused .. '|' .. last.text .. '|' .. request_wait .. '|' .. tokens_wait
    .. '|' .. d[1] .. '|' .. d[2] .. '|' .. d[3] .. '|' .. d[4] .. '|' .. d[5] .. '|' .. d[6] .. '|' .. d[7]
    .. '|' .. m[1] .. '|' .. m[2] .. '|' .. m[3] .. '|' .. m[4] .. '|' .. m[5] .. '|' .. m[6] .. '|' .. m[7]
end

if known then
  if known.state == 'held' then return answer('held', known.output_tokens, '', '0', '0') end
  return answer('closed', '0', '', '0', '0')
end

-- limit + top-up - used - held, of digits. Those may pass 2^53 (nano-USD: $9.0M), where doubles skip integers; the last
-- nine digits are then summed apart from the rest, and the result is exact wherever it could decide, which is below 2^53.
local function room(limit, used, held, topup)
  if #limit < 16 and #used < 16 and #held < 16 and #topup < 16 then return limit + topup - used - held end
  local high, low = 0, 0
  for i, digits in ipairs({limit, topup, used, held}) do
    local sign = i < 3 and 1 or -1
    high = high + sign * (tonumber(string.sub(digits, 1, -10)) or 0)
    low = low + sign * tonumber(string.sub(digits, -9))
  end
  return high * 1e9 + low
end

local granted, refused = ceiling, {}
local function clamp(limit, output)
  if output < least then table.insert(refused, limit) end
  granted = math.min(granted, output)
end
local function clamp_usd(limit, left)
  left = left - input_usd
  if left < 0 then clamp(limit, -1)
  elseif output_pico_usd > 0 then clamp(limit, math.floor(left * 1000 / output_pico_usd)) end
end

if requests_limit and last.requests + 1 > requests_limit then table.insert(refused, 'requests_per_minute') end
if tokens_limit then clamp('tokens_per_minute', tokens_limit - last.tokens - input) end
if daily_tokens then clamp('daily_tokens', room(daily_tokens, d[1], d[2], d[3]) - input) end
if monthly_tokens then clamp('monthly_tokens', room(monthly_tokens, m[1], m[2], m[3]) - input) end
if input_usd and daily_usd then clamp_usd('daily_nano_usd', room(daily_usd, d[4], d[5], d[6])) end
if input_usd and monthly_usd then clamp_usd('monthly_nano_usd', room(monthly_usd, m[4], m[5], m[6])) end

-- When enough of the last minute will have left for one request, and for the least this one needs. Looks at no more
-- than the 256 oldest requests: a refusal stays cheap, and the client only asks once more.
local function waits()
  local request_ms, tokens_ms, left = 0, 0, 0
  local over = requests_limit and requests_limit > 0 and last.requests + 1 - requests_limit or 0
  local short = tokens_limit and last.tokens + input + least - tokens_limit or 0
  local oldest = redis.call('ZRANGE', minute, 0, 255, 'WITHSCORES')
  for i = 1, #oldest, 2 do
    local leaves_ms = oldest[i + 1] + MINUTE_MS - now_ms
    if over > 0 and (i + 1) / 2 <= over then request_ms = leaves_ms end
    if short > left then tokens_ms = leaves_ms end
    left = left + string.match(oldest[i], '^%d+')
  end
  return integer(request_ms), integer(tokens_ms)
end
if #refused > 0 then return answer('refused', '0', table.concat(refused, ','), waits()) end

local held_tokens, held_usd = input + granted, input_usd and input_usd + math.ceil(granted * output_pico_usd / 1000)
local tokens, nano_usd, output, now = integer(held_tokens), held_usd and integer(held_usd), integer(granted), integer(now_ms)
redis.call('SET', hold_key(id),
  'held|' .. tokens .. '|' .. (nano_usd or '') .. '|' .. output .. '|' .. now
  .. '|' .. day_id .. '|' .. day_until .. '|' .. month_id .. '|' .. month_until, 'PXAT', month_until)
redis.call('ZADD', leases, lease_until, id)
redis.call('HINCRBY', day, 'held_tokens', tokens)
redis.call('HINCRBY', month, 'held_tokens', tokens)
if nano_usd then
  redis.call('HINCRBY', day, 'held_nano_usd', nano_usd)
  redis.call('HINCRBY', month, 'held_nano_usd', nano_usd)
end
-- Where nothing was held these may be new. The leases are of all months: a hold of the last one, told of late, would have
-- them end with it, but for the first of each day.
if d[2] == '0' then
  redis.call('PEXPIREAT', day, day_until)
  redis.call('PEXPIREAT', leases, month_until)
end
if m[2] == '0' then redis.call('PEXPIREAT', month, month_until) end
if requests_limit or tokens_limit then
  redis.call('ZADD', minute, now, tokens .. ':' .. id)
  -- The server's clock may differ from the callers': entries leave by drop_old, the expiry only tidies up.
  if last.requests == 0 or math.floor(last.newest / REFRESH_MS) ~= math.floor(now_ms / REFRESH_MS) then
    redis.call('PEXPIRE', minute, 2 * MINUTE_MS)
  end
  last.newest = last.requests == 0 and now_ms or math.max(last.newest, now_ms)
  last.requests, last.tokens, last.changed = last.requests + 1, last.tokens + held_tokens, true
end
return answer('admitted', output, '', '0', '0')
