-- Units: bytes; milliseconds since the epoch. Returns {entries, bytes} of a partition, as of now.
while forget_ended(tonumber(ARGV[1]), 1000) == 1000 do end
return {redis.call('HLEN', about), tonumber(redis.call('GET', bytes) or 0)}
