-- Ends a flight without an answer: the next one who waits takes over. Returns 1, or 0 if it was not the caller's.
return land(ARGV[1], ARGV[2])
