-- Writes what a job found, then that it succeeded, and returns 1 and how many of its items the member had not been shown
-- that day; where it succeeded before 0, and where it has failed -1, since a poller may have seen that and its message may
-- be in the dead-letter queue. Only the member's newest job writes the member's own keys.
-- A newer job's provisional documents stand in for its result. Where the member was forgotten since the job was asked for it
-- is -2, and where they refused other items than the documents were cleaned of, these items: nothing is written then.
-- job_order.lua goes before this.
-- KEYS: job:status, job:result, lease, latest:recommendation, recommend, preference, order, provisional (a hash: order and
-- status key of the job whose provisional documents are shown), refused (a set of items), shown (a hash: '<days>:<last day>' by
-- item), when the member was forgotten and, for a job with an idempotency key, the views that later jobs of that key take
-- over with its result.
-- ARGV: now, lifetime of the job's keys in s, of the member's keys in s, instant of the request (sortable, or empty),
-- result, cached view, preference, '1' where these are degraded, the refused items that they are cleaned of (sorted, with
-- commas), today's number, lifetime of shown in s, items at the most in it, and the items that are shown.
local status_key, result_key, lease_key = KEYS[1], KEYS[2], KEYS[3]
local latest_key, view_key, preference_key, order_key = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local provisional_key, refused_key, shown_key, forgotten_key, views_key = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local now, ttl_s, member_ttl_s, requested_at = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local result, view, preference, degraded = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local today, shown_ttl_s, max_shown, N_BEFORE_SHOWN = tonumber(ARGV[10]), ARGV[11], tonumber(ARGV[12]), 12

-- Keeps the items that were shown last.
local function prune_shown()
  local excess = redis.call('HLEN', shown_key) - max_shown
  if excess <= 0 then
    return
  end
  local all, items = redis.call('HGETALL', shown_key), {}
  for place = 1, #all, 2 do
    items[#items + 1] = {all[place], tonumber(string.match(all[place + 1], ':(.*)$'))}
  end
  table.sort(items, function(one, other)
    return one[2] < other[2] or (one[2] == other[2] and one[1] < other[1])
  end)
  for place = 1, excess do
    redis.call('HDEL', shown_key, items[place][1])
  end
end

-- An item counts once a day, however many results of that day it is in.
local function note_shown()
  local n_new = 0
  for place = N_BEFORE_SHOWN + 1, #ARGV do
    local days, last = string.match(redis.call('HGET', shown_key, ARGV[place]) or '0:0', '^(.*):(.*)$')
    if tonumber(last) ~= today then
      redis.call('HSET', shown_key, ARGV[place], (tonumber(days) + 1) .. ':' .. ARGV[10])
      n_new = n_new + 1
    end
  end
  if n_new > 0 then
    redis.call('EXPIRE', shown_key, shown_ttl_s)
    prune_shown()
  end
  return n_new
end

local known = redis.call('HMGET', status_key, 'status', 'submittedAt', 'startedAt')
if known[1] == 'succeeded' then
  return 0
end
if known[1] == 'failed' then
  return -1
end
local order = job_order(requested_at, known[2], known[3], now)
if is_forgotten_meanwhile(forgotten_key, order, requested_at, known[3]) then
  return -2
end
local refused = refused_items(refused_key)
if table.concat(refused, ',') ~= ARGV[9] then
  return refused
end
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
return 1 + note_shown()
