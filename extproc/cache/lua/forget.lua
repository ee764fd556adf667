-- Deletes the entries whose keys are given. Returns how many there were.
local count = 0
for _, key in ipairs(ARGV) do count = count + forget(key) end
return count
