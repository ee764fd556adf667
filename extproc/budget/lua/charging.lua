-- What the scripts that end a hold have in common; it follows `common.lua` in them. Units as there.
local EXACT = 9007199254740992 -- 2^53
local unreconciled = base .. ':unreconciled'

-- The windows this call is about, each {key, kind, its id, until_ms, sums: field -> what is to be added}; by key too.
local windows, by_key = {}, {}
local function window(kind, id, until_ms)
  local key = base .. ':' .. kind .. ':' .. id
  if not by_key[key] then
    by_key[key] = {key = key, kind = kind, id = id, until_ms = until_ms, sums = {}}
    windows[#windows + 1] = by_key[key]
  end
  return by_key[key]
end

-- The day and the month that `of` names: a hold, or the windows of a request that has none.
local function windows_of(of)
  of.windows = of.windows
    or {window('daily', of.daily, of.daily_until), window('monthly', of.monthly, of.monthly_until)}
  return of.windows
end

-- Adds to both. What doubles would not carry exactly is written before.
local function add(of, field, number)
  for _, each in ipairs(windows_of(of)) do
    local sum = (each.sums[field] or 0) + number
    if sum >= EXACT or sum <= -EXACT then
      redis.call('HINCRBY', each.key, field, integer(each.sums[field]))
      sum = number
    end
    each.sums[field] = sum
  end
end

-- What was used, or with sign -1 was not. nano_usd nil: the price is not known, which is counted apart, never as 0.
local function add_used(of, tokens, nano_usd, sign)
  add(of, 'used_tokens', sign * tokens)
  if nano_usd then add(of, 'used_nano_usd', sign * nano_usd) else add(of, 'unpriced_tokens', sign * tokens) end
end

-- A hold is not held any more.
local function give_back(hold)
  add(hold, 'held_tokens', -hold.tokens)
  add(hold, 'held_nano_usd', -(hold.nano_usd or 0))
end

-- Writes what was added: each window once, whatever number of holds there were.
local function save()
  for _, each in ipairs(windows) do
    for field, sum in pairs(each.sums) do
      if sum ~= 0 then redis.call('HINCRBY', each.key, field, integer(sum)) end
    end
    redis.call('PEXPIREAT', each.key, each.until_ms)
  end
end

-- What is left of a hold that ended answers repetitions until `keep_ms` has passed. `of` has its windows.
local function close(id, state, of, keep_ms)
  local text = state .. '|||||' .. (of.daily or '') .. '|' .. (of.daily_until or '')
    .. '|' .. (of.monthly or '') .. '|' .. (of.monthly_until or '')
  redis.call('SET', hold_key(id), text, 'PX', keep_ms)
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
