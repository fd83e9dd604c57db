-- Shows a member the provisional documents of a running job: where no result is shown, nor those of a newer job.
-- Without documents it only says whether it would. Where the member refused other items than the documents were cleaned of it is
-- these items, and nothing is shown. job_order.lua goes before this.
-- KEYS: job:status, lease, latest:recommendation, recommend, order, provisional (a hash: order and status key of the job
-- whose provisional documents are shown), refused, when the member was forgotten.
-- ARGV: token, now, lifetime in s, instant of the request (sortable, or empty), the refused items that the documents are
-- cleaned of (sorted, with commas), result, cached view (both or neither).
local status_key, lease_key = KEYS[1], KEYS[2]
local latest_key, view_key, order_key, provisional_key = KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local token, now, ttl_s, requested_at, cleaned_of = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local result, view = ARGV[6], ARGV[7]

local known = redis.call('HMGET', status_key, 'status', 'submittedAt', 'startedAt')
if known[1] ~= 'running' or redis.call('GET', lease_key) ~= token then
  return 0
end
local order = job_order(requested_at, known[2], known[3], now)
if is_forgotten(KEYS[8], order) then
  return 0
end
local refused = refused_items(KEYS[7])
if result and table.concat(refused, ',') ~= cleaned_of then
  return refused
end
local owner_order = redis.call('GET', order_key)
if owner_order and order < owner_order then
  return 0
end
local shown = redis.call('HMGET', provisional_key, 'order', 'job')
if shown[1] then
  if order < shown[1] and shown[2] ~= status_key then
    return 0
  end
elseif redis.call('EXISTS', latest_key, view_key) > 0 then
  return 0
end
if result then
  redis.call('SET', latest_key, result, 'EX', ttl_s)
  redis.call('SET', view_key, view, 'EX', ttl_s)
  redis.call('HSET', provisional_key, 'order', order, 'job', status_key)
  redis.call('EXPIRE', provisional_key, ttl_s)
end
return 1
