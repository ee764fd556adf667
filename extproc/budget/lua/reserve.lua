-- Units: tokens; nano-USD (1e-9 USD), output price in pico-USD (1e-12) per token; milliseconds since the epoch.
-- An empty argument: no limit, or price not known.
--
-- Takes a hold of input + output on the team's day, month and last minute: all or nothing, the output clamped to what
-- the tightest limit has left, never below `least`. A refusal changes nothing. Repeated: the same grant, no second hold.
-- Returns {answer, output tokens granted, limits without room, {requests, tokens, reset, wait for a request, wait for
-- tokens}, day, month}; the last three as they are after the call.
local id, now_ms, lease_until = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local input, ceiling, least = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local input_usd, output_pico_usd = tonumber(ARGV[7]), tonumber(ARGV[8])
local windows = {daily = ARGV[9], daily_until = ARGV[10], monthly = ARGV[11], monthly_until = ARGV[12]}
local daily_tokens, monthly_tokens, daily_usd, monthly_usd = ARGV[13], ARGV[14], ARGV[15], ARGV[16]
local requests_limit, tokens_limit = tonumber(ARGV[17]), tonumber(ARGV[18])

local found = redis.call('MGET', hold_key(id), minute_sums)
local known, last = parse_hold(found[1]), parse_minute(found[2])
drop_old(last, now_ms)
local day, month = daily(windows), monthly(windows)

local function answer(name, granted, refused, request_wait_ms, tokens_wait_ms)
  return {name, granted, refused,
          {last.requests, last.tokens, reset_ms(last, now_ms), request_wait_ms, tokens_wait_ms},
          day.counts, month.counts}
end
local function unchanged(...)
  if last.changed then write_minute(last) end
  return answer(...)
end

if known then
  if known.state ~= 'held' then return unchanged('closed', 0, {}, 0, 0) end
  return unchanged('admitted', tonumber(known.output_tokens), {}, 0, 0)
end

-- limit + top-up - used - held. Counters may pass 2^53 (nano-USD: $9.0M), where doubles skip integers; so the last nine
-- digits are summed apart from the rest, and the result is exact wherever it could decide, which is below 2^53.
local function room(limit, used, held, topup)
  local high, low = 0, 0
  local function add(digits, sign)
    if not digits then return end
    high = high + sign * (tonumber(string.sub(digits, 1, -10)) or 0)
    low = low + sign * tonumber(string.sub(digits, -9))
  end
  add(limit, 1) add(topup, 1) add(used, -1) add(held, -1)
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

local d, m = day.counts, month.counts
if requests_limit and last.requests + 1 > requests_limit then table.insert(refused, 'requests_per_minute') end
if tokens_limit then clamp('tokens_per_minute', tokens_limit - last.tokens - input) end
if daily_tokens ~= '' then clamp('daily_tokens', room(daily_tokens, d[1], d[2], d[3]) - input) end
if monthly_tokens ~= '' then clamp('monthly_tokens', room(monthly_tokens, m[1], m[2], m[3]) - input) end
if input_usd and daily_usd ~= '' then clamp_usd('daily_nano_usd', room(daily_usd, d[4], d[5], d[6])) end
if input_usd and monthly_usd ~= '' then clamp_usd('monthly_nano_usd', room(monthly_usd, m[4], m[5], m[6])) end

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
  return request_ms, tokens_ms
end
if #refused > 0 then return unchanged('refused', 0, refused, waits()) end

local held_tokens, held_usd = input + granted, input_usd and input_usd + math.ceil(granted * output_pico_usd / 1000)
-- Where the month holds something already, so do the leases, which then have an expiry of this month or a later one.
local leases_may_be_new = not m[2] or m[2] == '0'
local changes = {}
add_held(changes, {tokens = held_tokens, nano_usd = held_usd}, 1)
post(day, changes)
post(month, changes)
redis.call('SET', hold_key(id),
  hold_text('held', windows, integer(held_tokens), held_usd and integer(held_usd), integer(granted), integer(now_ms)),
  'PXAT', windows.monthly_until)
redis.call('ZADD', leases, lease_until, id)
if leases_may_be_new then redis.call('PEXPIREAT', leases, windows.monthly_until) end
if requests_limit or tokens_limit then add_to_minute(last, id, now_ms, held_tokens) elseif last.changed then write_minute(last) end
return answer('admitted', granted, {}, 0, 0)
