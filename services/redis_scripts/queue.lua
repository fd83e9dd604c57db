-- Makes a job queued, unless it has a status. job_order.lua goes before this.
-- KEYS: job:status, the member's index. ARGV: now, lifetime in s, job id.
if redis.call('HEXISTS', KEYS[1], 'status') == 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'status', 'queued', 'progress', '0', 'submittedAt', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
note_of_member(KEYS[2], 'job ' .. ARGV[3], ARGV[2])
return 1
