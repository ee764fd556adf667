-- The vectors of the texts of entries whose keys are given: "" where nobody has made them yet, false where the entry is
-- gone.
local found = redis.call('HMGET', vectors, unpack(ARGV))
for at, known in ipairs(redis.call('HMGET', about, unpack(ARGV))) do
  if not known then found[at] = false elseif not found[at] then found[at] = '' end
end
return found
