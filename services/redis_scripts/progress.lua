-- Raises the progress of a running job.
-- KEYS: job:status. ARGV: progress, 0 to 100.
local known = redis.call('HMGET', KEYS[1], 'status', 'progress')
if known[1] ~= 'running' or tonumber(ARGV[1]) <= (tonumber(known[2] or 0) or 0) then
  return 0
end
redis.call('HSET', KEYS[1], 'progress', ARGV[1])
return 1
