-- Adds a batch to what a replica counted, once: KEYS[2] is its marker, in the slot of KEYS[1], kept for ARGV[1] ms.
-- ARGV from 2 on: fields, each with the number to add.
if redis.call('SET', KEYS[2], '', 'NX', 'PX', ARGV[1]) then
  for i = 2, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return redis.status_reply('OK')
