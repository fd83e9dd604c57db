-- Makes a job failed and returns 1, unless it has ended before or a worker other than the caller holds it: 0.
-- KEYS: job:status, lease, the mark that a dead letter is due. ARGV: now, lifetime in s, error code, error message, token
-- (empty: the caller could not read its message and claimed nothing, so that a job which runs, or waits for a retry, is
-- another message's), '1' where a dead letter is due, and how long the caller has for that, in ms.
local status_key, lease_key, due_key = KEYS[1], KEYS[2], KEYS[3]
local now, ttl_s, code, message, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local status = redis.call('HGET', status_key, 'status')
local holder = redis.call('GET', lease_key)
if status == 'succeeded' or status == 'failed' or (holder and holder ~= token) or (token == '' and status == 'running') then
  return 0
end
redis.call('HSET', status_key, 'status', 'failed', 'finishedAt', now, 'error.code', code, 'error.message', message)
redis.call('EXPIRE', status_key, ttl_s)
if ARGV[6] == '1' then
  redis.call('SET', due_key, '1', 'EX', ttl_s)
  redis.call('SET', lease_key, token, 'PX', ARGV[7])
else
  redis.call('DEL', lease_key)
end
return 1
