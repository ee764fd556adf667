-- Units: tokens; nano-USD (1e-9 USD); milliseconds since the epoch. Prepended to every other script of this folder.
--
-- KEYS[1] is "gw:{team}": the hash tag puts all keys of a team into one slot, so the keys below are derived from it.
--   :daily:<id>, :monthly:<id>   hash, a calendar window: used, held, top-ups, alerts sent, top-ups granted
--   :hold:<id>                   string, a hold: open, or what is kept of it so that nothing is charged twice
--   :leases                      zset, open holds by the end of their lease
--   :unreconciled                zset, holds charged because their lease ended, until their audit row is written
--   :minute, :minute_sums        zset "<tokens>:<hold>" by time of the last 60 s; string "requests|tokens|newest"
-- A hold's own amounts are below 2^53 (the caller checks), so doubles carry them exactly; the counters are 64 bit.
-- A call from Lua costs more than what the script computes: so what belongs together lies in one value, is read once,
-- and expiry is set with the write or only where a key may be new.

local MINUTE_MS = 60000
local REFRESH_MS = 15000 -- the zset's expiry is pushed on this often, and is far longer
local EXACT = 9007199254740992 -- 2^53
local FIELDS = {'used_tokens', 'held_tokens', 'topup_tokens', 'used_nano_usd', 'held_nano_usd', 'topup_nano_usd',
                'unpriced_tokens'}

local base = KEYS[1]
local leases, unreconciled = base .. ':leases', base .. ':unreconciled'
local minute, minute_sums = base .. ':minute', base .. ':minute_sums'

local function hold_key(id) return base .. ':hold:' .. id end

-- A number below 2^53 as Redis reads integers; tostring() would give 1e+15.
local function integer(number) return string.format('%d', number) end

-- A window: its key, the end of its life, its counters in the order of FIELDS, as digits or false; those that changed.
local function window(kind, id, until_ms)
  local key = base .. ':' .. kind .. ':' .. id
  local counts = redis.call('HMGET', key, unpack(FIELDS))
  local fresh = true
  for _, count in ipairs(counts) do fresh = fresh and not count end
  return {key = key, id = id, until_ms = until_ms, counts = counts, fresh = fresh, changed = {}}
end
local function daily(of) return window('daily', of.daily, of.daily_until) end
local function monthly(of) return window('monthly', of.monthly, of.monthly_until) end

-- Writes what changed in a window.
local function save(of)
  local set = {}
  for i in pairs(of.changed) do
    set[#set + 1] = FIELDS[i]
    set[#set + 1] = of.counts[i]
  end
  if #set > 0 then redis.call('HSET', of.key, unpack(set)) end
  if of.fresh then redis.call('PEXPIREAT', of.key, of.until_ms) end
  of.changed, of.fresh = {}, false
end

-- Adds `changes` (field -> number) to a window, to be saved. What doubles do not carry exactly the server adds.
local function add(into, changes)
  for i, field in ipairs(FIELDS) do
    local change = changes[field]
    if change and change ~= 0 then
      local sum = (tonumber(into.counts[i] or 0)) + change
      if sum < EXACT and sum > -EXACT then
        into.counts[i], into.changed[i] = integer(sum), true
      else
        if into.changed[i] then redis.call('HSET', into.key, field, into.counts[i]) end
        redis.call('HINCRBY', into.key, field, integer(change))
        into.counts[i], into.changed[i] = redis.call('HGET', into.key, field), nil
      end
    end
  end
end

local function post(into, changes)
  add(into, changes)
  save(into)
end

-- Into `changes`: what was used, or with sign -1 was not. nano_usd nil: the price is not known, which is counted apart
-- and never as 0.
local function add_used(changes, tokens, nano_usd, sign)
  local cost, amount = 'used_nano_usd', nano_usd
  if not nano_usd then cost, amount = 'unpriced_tokens', tokens end
  changes.used_tokens = (changes.used_tokens or 0) + sign * tokens
  changes[cost] = (changes[cost] or 0) + sign * amount
end

local function add_held(changes, hold, sign)
  changes.held_tokens = sign * hold.tokens
  changes.held_nano_usd = sign * (hold.nano_usd or 0)
end

-- A hold <-> its text. Amounts are numbers; those of a closed hold are empty, as is an unknown price.
local HOLD = '^(%a+)|(%d*)|(%d*)|(%d*)|(%d*)|([^|]*)|(%d*)|([^|]*)|(%d*)$'
local function parse_hold(text)
  if not text then return nil end
  local state, tokens, nano_usd, output, at_ms, day, day_until, month, month_until = string.match(text, HOLD)
  return {state = state, tokens = tonumber(tokens), nano_usd = tonumber(nano_usd), output_tokens = output, at_ms = at_ms,
          daily = day, daily_until = day_until, monthly = month, monthly_until = month_until}
end
local function hold_text(state, of, tokens, nano_usd, output_tokens, at_ms)
  return table.concat({state, tokens or '', nano_usd or '', output_tokens or '', at_ms or '',
                       of.daily or '', of.daily_until or '', of.monthly or '', of.monthly_until or ''}, '|')
end

-- What is left of a hold that ended answers repetitions until `keep_ms` has passed. `of` has its windows.
local function close(id, state, of, keep_ms)
  redis.call('SET', hold_key(id), hold_text(state, of), 'PX', keep_ms)
end

-- The last minute as its sums say; `newest` is when its last request came.
local function parse_minute(sums)
  local requests, tokens, newest = string.match(sums or '', '^(%d+)|(%d+)|(%d+)$')
  return {requests = tonumber(requests) or 0, tokens = tonumber(tokens) or 0, newest = tonumber(newest) or 0}
end

local function write_minute(of)
  local sums = table.concat({integer(of.requests), integer(of.tokens), integer(of.newest)}, '|')
  redis.call('SET', minute_sums, sums, 'PX', 2 * MINUTE_MS)
end

local function reset_ms(of, now_ms) return of.requests > 0 and of.newest + MINUTE_MS - now_ms or 0 end

-- Drops what is older than a minute; `changed` tells that the sums are to be written.
local function drop_old(of, now_ms)
  if of.requests == 0 then return end
  if of.newest + MINUTE_MS <= now_ms then
    redis.call('DEL', minute)
    of.requests, of.tokens, of.changed = 0, 0, true
    return
  end
  local until_ms = integer(now_ms - MINUTE_MS)
  local old = redis.call('ZRANGEBYSCORE', minute, '-inf', until_ms)
  if #old == 0 then return end
  for _, entry in ipairs(old) do of.tokens = of.tokens - string.match(entry, '^%d+') end
  of.requests, of.changed = of.requests - #old, true
  redis.call('ZREMRANGEBYSCORE', minute, '-inf', until_ms)
end

-- The server's clock may differ from the callers': entries leave by drop_old, the expiry only tidies up.
local function add_to_minute(of, id, now_ms, tokens)
  redis.call('ZADD', minute, integer(now_ms), integer(tokens) .. ':' .. id)
  if of.requests == 0 or math.floor(of.newest / REFRESH_MS) ~= math.floor(now_ms / REFRESH_MS) then
    redis.call('PEXPIRE', minute, 2 * MINUTE_MS)
  end
  of.newest = of.requests == 0 and now_ms or math.max(of.newest, now_ms)
  of.requests, of.tokens = of.requests + 1, of.tokens + tokens
  write_minute(of)
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
