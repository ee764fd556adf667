-- Units: tokens; nano-USD (1e-9 USD); milliseconds since the epoch. Prepended to every other script of this folder.
--
-- KEYS[1] is "gw:{team}": the hash tag puts all keys of a team into one slot, so the keys below are derived from it.
--   :daily:<id>, :monthly:<id>   hash, a calendar window: used, held, top-ups, alerts sent, top-ups granted
--   :hold:<id>                   string, a hold: open, or what is kept of it so that nothing is charged twice
--   :leases                      zset, open holds by the end of their lease
--   :unreconciled                zset, holds charged because their lease ended, until their audit row is written
--   :minute, :minute_sums        zset "<tokens>:<hold>" by time of the last 60 s; string "requests|tokens|newest"
-- A hold's own amounts are below 2^53 (the caller checks), so doubles carry them exactly; the counters are 64 bit, and
-- only the server adds to them.
-- A call, a table or a function made here costs more than what the script computes: what belongs together lies in one
-- value and is read once, and the script that every request waits for (`reserve`) is made of little else than calls.

local MINUTE_MS = 60000
local base = KEYS[1]
local leases, minute, minute_sums = base .. ':leases', base .. ':minute', base .. ':minute_sums'

local function hold_key(id) return base .. ':hold:' .. id end

-- A number below 2^53 as Redis reads integers; tostring() would give 1e+15.
local function integer(number) return string.format('%d', number) end

-- A window's counters as digits, in the order of `Account`.
local function counters(key)
  local counts = redis.call('HMGET', key, 'used_tokens', 'held_tokens', 'topup_tokens',
                            'used_nano_usd', 'held_nano_usd', 'topup_nano_usd', 'unpriced_tokens')
  for i = 1, 7 do counts[i] = counts[i] or '0' end
  return counts
end

-- A hold as its text says. Amounts are numbers; those of a closed hold are nil, as is an unknown price. `windows` is
-- "day|until|month|until", kept as it came.
local function parse_hold(text)
  if not text then return nil end
  local state, tokens, nano_usd, output, at_ms, windows = string.match(text, '^(%a+)|(%d*)|(%d*)|(%d*)|(%d*)|(.*)$')
  return {state = state, tokens = tonumber(tokens), nano_usd = tonumber(nano_usd), output_tokens = output, at_ms = at_ms,
          windows = windows}
end

-- The last minute as its sums say; `newest` is when its last request came.
local function parse_minute(sums)
  sums = sums or '0|0|0'
  local requests, tokens, newest = string.match(sums, '^(%d+)|(%d+)|(%d+)$')
  return {text = sums, requests = tonumber(requests), tokens = tonumber(tokens), newest = tonumber(newest)}
end

local function write_minute(of)
  of.text = integer(of.requests) .. '|' .. integer(of.tokens) .. '|' .. integer(of.newest)
  redis.call('SET', minute_sums, of.text, 'PX', 2 * MINUTE_MS)
end

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
