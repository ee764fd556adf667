-- Units: milliseconds since the epoch. Answers asked for until `now_ms` that are what `what` names ("*", "model:<name>"
-- or "key:<key>") are not kept any more, for as long as one may be on its way.
redis.call('HSET', purged, ARGV[1], ARGV[2])
redis.call('PEXPIRE', purged, ARGV[3])
return 1
