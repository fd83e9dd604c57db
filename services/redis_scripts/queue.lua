-- Makes a job queued, unless it has a status.
-- KEYS: job:status. ARGV: now, lifetime in s.
if redis.call('HEXISTS', KEYS[1], 'status') == 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'status', 'queued', 'progress', '0', 'submittedAt', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
