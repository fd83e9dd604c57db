-- Writes what a job found, then that it succeeded, and returns 1; where it succeeded before 0, and where it has failed
-- -1, since a poller may have seen that and its message may be in the dead-letter queue. Only the member's newest job writes the member's own keys.
-- A newer job's provisional documents stand in for its result. job_order.lua goes before this.
-- KEYS: job:status, job:result, lease, latest:recommendation, recommend, preference, order, provisional (a hash: order and
-- status key of the job whose provisional documents are shown) and, for a job with an idempotency key, the views that
-- later jobs of that key take over with its result.
-- ARGV: now, lifetime of the job's keys in s, of the member's keys in s, instant of the request (sortable, or empty),
-- result, cached view, preference, '1' where these are degraded.
local status_key, result_key, lease_key = KEYS[1], KEYS[2], KEYS[3]
local latest_key, view_key, preference_key, order_key = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local provisional_key, views_key = KEYS[8], KEYS[9]
local now, ttl_s, member_ttl_s, requested_at = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local result, view, preference, degraded = ARGV[5], ARGV[6], ARGV[7], ARGV[8]

local known = redis.call('HMGET', status_key, 'status', 'submittedAt', 'startedAt')
if known[1] == 'succeeded' then
  return 0
end
if known[1] == 'failed' then
  return -1
end
local order = job_order(requested_at, known[2], known[3], now)
local owner_order = redis.call('GET', order_key)
local shown = redis.call('HMGET', provisional_key, 'order', 'job')
local is_newest = not owner_order or order >= owner_order
local replaces_shown = not shown[1] or order >= shown[1] or shown[2] == status_key

redis.call('SET', result_key, result, 'EX', ttl_s)
if views_key then
  redis.call('HSET', views_key, 'view', view, 'preference', preference, 'degraded', degraded)
  redis.call('EXPIRE', views_key, ttl_s)
end
if is_newest and replaces_shown then
  redis.call('SET', latest_key, result)
  redis.call('SET', view_key, view, 'EX', member_ttl_s)
  redis.call('SET', preference_key, preference, 'EX', member_ttl_s)
  redis.call('SET', order_key, order)
  redis.call('DEL', provisional_key)
end
redis.call('HSETNX', status_key, 'startedAt', now)
redis.call('HDEL', status_key, 'error.code', 'error.message')
redis.call('HSET', status_key, 'status', 'succeeded', 'progress', '100', 'finishedAt', now)
redis.call('EXPIRE', status_key, ttl_s)
redis.call('DEL', lease_key)
return 1
