-- Units: milliseconds since the epoch.
--
-- The entry of a key, marked as used; without one 1 if the caller is the one to go and get the answer (the flight is
-- then its own for `flight_ms`; so it is for one that comes again, its worker having died), 0 if another one is on its
-- way. With an empty id no flight is begun: 0. One whose request has ended without telling gives way to the next.
local key, now_ms, id, flight_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local value = redis.call('GET', entry(key))
if value then
  redis.call('ZADD', used, 'XX', now_ms, key)
  return value
end
if id == '' then return 0 end
if redis.call('SET', flight(key), id, 'NX', 'PX', flight_ms) then return 1 end
local leader = redis.call('GET', flight(key))
if leader == id then return 1 end
if redis.call('EXISTS', left(leader)) == 0 then return 0 end
redis.call('SET', flight(key), id, 'PX', flight_ms)
return 1
