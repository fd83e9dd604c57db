-- Makes a job failed, unless it succeeded or a worker other than the caller holds it.
-- KEYS: job:status, lease. ARGV: now, lifetime in s, error code, error message, token (empty: whoever holds it).
local status_key, lease_key = KEYS[1], KEYS[2]
local now, ttl_s, code, message, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local holder = redis.call('GET', lease_key)
if token ~= '' and holder and holder ~= token then
  return 0
end
if redis.call('HGET', status_key, 'status') == 'succeeded' then
  return 0
end
redis.call('HSET', status_key, 'status', 'failed', 'finishedAt', now, 'error.code', code, 'error.message', message)
redis.call('EXPIRE', status_key, ttl_s)
redis.call('DEL', lease_key)
return 1
