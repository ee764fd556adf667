-- Units: bytes; milliseconds since the epoch. Prepended to every other script of this folder.
--
-- KEYS[1] is "gw:cache:{partition}": the hash tag puts all keys of a partition into one slot, so the keys below are
-- derived from it.
--   :entry:<key>    string, an entry; ends with its time to live
--   :flight:<key>   string, who answers this request now: others with the same one wait
--   :left:<id>      string, empty: the request of this id has ended, whatever it leads
--   :used, :ends    zsets, keys of entries by when they were last used and by when they end
--   :about          hash, key of an entry -> "<bytes> <stored at> <team> <model>"
--   :vectors        hash, key of an entry -> the vectors of its text, once somebody has made them; within its bytes
--   :bytes          string, the sum of those bytes
--   :purged         hash, "*", "model:<name>" or "key:<key>" -> when that was deleted
local base = KEYS[1]
local used, ends, about, bytes, purged = base .. ':used', base .. ':ends', base .. ':about', base .. ':bytes',
                                         base .. ':purged'
local vectors = base .. ':vectors'

local function entry(key) return base .. ':entry:' .. key end
local function flight(key) return base .. ':flight:' .. key end
local function left(id) return base .. ':left:' .. id end

-- Forgets an entry. Returns 1, or 0 if there was none.
local function forget(key)
  local known = redis.call('HGET', about, key)
  if not known then return 0 end
  redis.call('DEL', entry(key))
  redis.call('ZREM', used, key)
  redis.call('ZREM', ends, key)
  redis.call('HDEL', about, key)
  redis.call('HDEL', vectors, key)
  redis.call('DECRBY', bytes, string.match(known, '^%d+'))
  return 1
end

-- What has ended is gone by itself; here the sums learn of it.
local function forget_ended(now_ms, most)
  local ended = redis.call('ZRANGEBYSCORE', ends, '-inf', now_ms, 'LIMIT', 0, most)
  for _, key in ipairs(ended) do forget(key) end
  return #ended
end

-- Ends the flight, if it is the caller's. Returns 1 or 0.
local function land(key, id)
  if id == '' or redis.call('GET', flight(key)) ~= id then return 0 end
  return redis.call('DEL', flight(key))
end
