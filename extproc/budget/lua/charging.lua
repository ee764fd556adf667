-- What the scripts that end a hold have in common; it follows `common.lua` in them. Units as there.
local EXACT = 9007199254740992 -- 2^53
local unreconciled = base .. ':unreconciled'

-- What is to be added, by the windows it is added to, as a hold names them: field -> number.
local sums_of = {}

-- The day and the month of a hold's `windows`.
local function parse_windows(windows)
  local day, day_until, month, month_until = string.match(windows, '^([^|]*)|(%d*)|([^|]*)|(%d*)$')
  return {{key = base .. ':daily:' .. day, kind = 'daily', id = day, until_ms = day_until},
          {key = base .. ':monthly:' .. month, kind = 'monthly', id = month, until_ms = month_until}}
end

local function write(windows, field, number)
  for _, each in ipairs(parse_windows(windows)) do redis.call('HINCRBY', each.key, field, integer(number)) end
end

-- Adds to a day and a month. What doubles would not carry exactly is written before.
local function add(windows, field, number)
  local sums = sums_of[windows] or {}
  sums_of[windows] = sums
  local sum = (sums[field] or 0) + number
  if sum >= EXACT or sum <= -EXACT then
    write(windows, field, sums[field])
    sum = number
  end
  sums[field] = sum
end

-- What was used, or with sign -1 was not. nano_usd nil: the price is not known, which is counted apart, never as 0.
local function add_used(windows, tokens, nano_usd, sign)
  add(windows, 'used_tokens', sign * tokens)
  if nano_usd then add(windows, 'used_nano_usd', sign * nano_usd) else add(windows, 'unpriced_tokens', sign * tokens) end
end

-- A hold is not held any more.
local function give_back(hold)
  add(hold.windows, 'held_tokens', -hold.tokens)
  add(hold.windows, 'held_nano_usd', -(hold.nano_usd or 0))
end

-- Writes what was added: once, whatever number of holds there were.
local function save()
  for windows, sums in pairs(sums_of) do
    for field, sum in pairs(sums) do
      if sum ~= 0 then write(windows, field, sum) end
    end
    for _, each in ipairs(parse_windows(windows)) do redis.call('PEXPIREAT', each.key, each.until_ms) end
  end
end

-- What is left of a hold that ended answers repetitions until `keep_ms` has passed.
local function close(id, state, windows, keep_ms)
  redis.call('SET', hold_key(id), state .. '|||||' .. windows, 'PX', keep_ms)
end

-- Puts `tokens` in the place of what a hold took of the last minute; nil takes it out, the request too. `of.changed`
-- tells that the sums are to be written.
local function correct_minute(of, id, hold, tokens)
  if of.requests == 0 or tokens == hold.tokens then return end
  if redis.call('ZREM', minute, integer(hold.tokens) .. ':' .. id) == 0 then return end
  of.tokens, of.changed = of.tokens - hold.tokens + (tokens or 0), true
  if tokens then
    redis.call('ZADD', minute, hold.at_ms, integer(tokens) .. ':' .. id)
    if of.requests == 1 then redis.call('PEXPIRE', minute, 2 * MINUTE_MS) end -- it was empty, so it is new
  else
    of.requests = of.requests - 1
    local last = redis.call('ZRANGE', minute, -1, -1, 'WITHSCORES')
    of.newest = tonumber(last[2]) or 0
  end
end
