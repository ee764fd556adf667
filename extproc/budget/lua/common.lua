-- Units: tokens; nano-USD (1e-9 USD); milliseconds since the epoch. Prepended to every other script of this folder.
--
-- KEYS[1] is "gw:{team}": the hash tag puts all keys of a team into one slot, so the keys below are derived from it.
--   :daily:<id>, :monthly:<id>   hash, a calendar window: used, held, top-ups, alerts sent, top-ups granted
--   :hold:<id>                   hash, a hold: open, or what is kept of it so that nothing is charged twice
--   :leases                      zset, open holds by the end of their lease
--   :unreconciled                zset, holds charged because their lease ended, until their audit row is written
--   :minute, :minute_tokens      zset "<tokens>:<hold>" by time of the last 60 s, and the sum of its tokens
-- A hold's own amounts are below 2^53 (the caller checks), so doubles carry them exactly; the counters are 64 bit.

local MINUTE_MS = 60000
local FIELDS = {'used_tokens', 'held_tokens', 'topup_tokens', 'used_nano_usd', 'held_nano_usd', 'topup_nano_usd',
                'unpriced_tokens'}

local base = KEYS[1]
local leases, unreconciled = base .. ':leases', base .. ':unreconciled'
local minute, minute_tokens = base .. ':minute', base .. ':minute_tokens'

local function daily(id) return base .. ':daily:' .. id end
local function monthly(id) return base .. ':monthly:' .. id end
local function hold_key(id) return base .. ':hold:' .. id end

-- A number as Redis reads integers; tostring() would give 1e+15.
local function integer(number) return string.format('%.0f', number) end

local function read(window) return redis.call('HMGET', window, unpack(FIELDS)) end

-- Adds `amount` (a number) to one counter of the hold's day and month. `hold` has the window ids and their ends.
local function post(hold, field, amount)
  if amount == 0 then return end
  redis.call('HINCRBY', daily(hold.daily), field, integer(amount))
  redis.call('PEXPIREAT', daily(hold.daily), hold.daily_until)
  redis.call('HINCRBY', monthly(hold.monthly), field, integer(amount))
  redis.call('PEXPIREAT', monthly(hold.monthly), hold.monthly_until)
end

-- nano_usd nil: the price is not known, which is counted apart and never as 0.
local function post_used(hold, tokens, nano_usd, sign)
  post(hold, 'used_tokens', sign * tokens)
  if nano_usd then post(hold, 'used_nano_usd', sign * nano_usd) else post(hold, 'unpriced_tokens', sign * tokens) end
end

local function post_held(hold, tokens, nano_usd, sign)
  post(hold, 'held_tokens', sign * tokens)
  post(hold, 'held_nano_usd', sign * (nano_usd or 0))
end

-- The hold as a table, amounts as numbers; nil if there is none.
local function read_hold(id)
  local flat = redis.call('HGETALL', hold_key(id))
  if #flat == 0 then return nil end
  local hold = {}
  for i = 1, #flat, 2 do hold[flat[i]] = flat[i + 1] end
  hold.tokens, hold.nano_usd = tonumber(hold.tokens), tonumber(hold.nano_usd)
  return hold
end

-- Ends a hold. What is left answers repetitions until `keep_ms` has passed.
local function close(id, state, hold, keep_ms)
  redis.call('ZREM', leases, id)
  redis.call('DEL', hold_key(id))
  redis.call('HSET', hold_key(id), 'state', state, 'daily', hold.daily or '', 'monthly', hold.monthly or '')
  redis.call('PEXPIRE', hold_key(id), keep_ms)
end

-- Drops what is older than a minute. Returns requests, tokens, and ms until the last of them has left.
local function read_minute(now_ms)
  local newest = redis.call('ZRANGE', minute, -1, -1, 'WITHSCORES')
  if not newest[1] then return 0, 0, 0 end
  local left_ms = newest[2] + MINUTE_MS - now_ms
  if left_ms <= 0 then
    redis.call('DEL', minute, minute_tokens)
    return 0, 0, 0
  end
  local old = redis.call('ZRANGEBYSCORE', minute, '-inf', integer(now_ms - MINUTE_MS))
  if #old > 0 then
    local tokens = 0
    for _, entry in ipairs(old) do tokens = tokens + string.match(entry, '^%d+') end
    redis.call('ZREMRANGEBYSCORE', minute, '-inf', integer(now_ms - MINUTE_MS))
    redis.call('DECRBY', minute_tokens, integer(tokens))
  end
  return redis.call('ZCARD', minute), tonumber(redis.call('GET', minute_tokens) or 0), left_ms
end

-- The server's clock may differ from the callers': entries leave by read_minute, the expiry only tidies up.
local function add_to_minute(id, at_ms, tokens)
  redis.call('ZADD', minute, at_ms, integer(tokens) .. ':' .. id)
  redis.call('INCRBY', minute_tokens, integer(tokens))
  redis.call('PEXPIRE', minute, 2 * MINUTE_MS)
  redis.call('PEXPIRE', minute_tokens, 2 * MINUTE_MS)
end

local function remove_from_minute(id, tokens)
  local removed = redis.call('ZREM', minute, integer(tokens) .. ':' .. id) == 1
  if removed then redis.call('DECRBY', minute_tokens, integer(tokens)) end
  return removed
end
