-- Makes a job running and leases it to one worker, unless it is finished, leased to another, or a repetition: of a job
-- that repeats a finished one the answer is {result, cached view, preference, '1' where they are degraded}, and nothing
-- is written, but that a failed one runs again.
-- A job of a member who was forgotten since it was asked for is 'forgotten'. job_order.lua goes before this.
-- KEYS: job:status, lease, the mark that a dead letter is due, when the member was forgotten, the member's index, the mark
-- that the job was forgotten and, for a job with an idempotency key, the key that names that key's owner.
-- ARGV: job id, token, number of the replay (0: none), now, lease in ms, lifetime in s, and the prefixes of status, result, lease and
-- views: the owner's own keys are known only once its id has been read, which Redis Cluster would not allow; and the instant
-- of the request (sortable, or empty), and how often the job may come back (0: without limit). A worker that dies with its
-- job leaves it running without a lease: a job that is found so was returned by its queue, which need not count that itself.
local status_key, lease_key, due_key, forgotten_key, index_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local forgotten_job_key, owner_key = KEYS[6], KEYS[7]
local job_id, token, replay, now, lease_ms, ttl_s = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local status_prefix, result_prefix, lease_prefix, views_prefix = ARGV[7], ARGV[8], ARGV[9], ARGV[10]

local known = redis.call('HMGET', status_key, 'status', 'replays', 'submittedAt', 'startedAt')
local status, n_replays = known[1], tonumber(known[2] or 0) or 0
if status == 'succeeded' then
  return 'succeeded_before'
end
-- A replay that was sent twice, since whoever sent it died before it could say so, is run once.
local holder = redis.call('GET', lease_key)
if status == 'failed' and replay <= n_replays then
  if redis.call('EXISTS', due_key) == 0 then
    return 'failed_before'
  end
  -- Whoever failed it is about to dead-letter it, be that the caller in another delivery's name, unless it died.
  if holder then
    return 'running_elsewhere'
  end
  redis.call('SET', lease_key, token, 'PX', lease_ms)
  return 'dead_letter_due'
end
if holder and holder ~= token then
  return 'running_elsewhere'
end

-- A job that tells its instant is of before or not by that alone.
local is_marked = ARGV[11] == '' and redis.call('EXISTS', forgotten_job_key) == 1
if is_marked or is_forgotten(forgotten_key, job_order(ARGV[11], known[3], known[4], now)) then
  return 'forgotten'
end

local owner = owner_key and redis.call('GET', owner_key)
if owner and owner ~= job_id then
  local is_done = redis.call('HGET', status_prefix .. owner, 'status') == 'succeeded'
  local result = is_done and redis.call('GET', result_prefix .. owner)
  local views = result and redis.call('HMGET', views_prefix .. owner, 'view', 'preference', 'degraded')
  if views and views[1] and views[2] and views[3] then
    note_of_member(index_key, 'job ' .. job_id, ttl_s)
    if status == 'failed' then
      redis.call('HSET', status_key, 'status', 'running')
      redis.call('DEL', due_key)
    end
    return {result, views[1], views[2], views[3]}
  end
  -- Only a live lease keeps others out: an owner that waits for a retry, or never comes back, is overtaken, and finds
  -- its successor's result when it does.
  if redis.call('EXISTS', lease_prefix .. owner) == 1 then
    return 'running_elsewhere'
  end
end

if status == 'failed' then
  redis.call('HDEL', status_key, 'error.code', 'error.message', 'finishedAt')
  redis.call('HSET', status_key, 'progress', '0')
  redis.call('DEL', due_key)
end
if replay > n_replays then
  redis.call('HSET', status_key, 'replays', ARGV[3])
  redis.call('HDEL', status_key, 'returns')
end
local n_returns = 0
if status == 'running' and not holder then
  n_returns = redis.call('HINCRBY', status_key, 'returns', 1)
end
redis.call('HSETNX', status_key, 'startedAt', now)
redis.call('HSETNX', status_key, 'progress', '0')
redis.call('HSET', status_key, 'status', 'running')
redis.call('EXPIRE', status_key, ttl_s)
redis.call('SET', lease_key, token, 'PX', lease_ms)
if owner_key then
  redis.call('SET', owner_key, job_id, 'EX', ttl_s)
  note_of_member(index_key, 'key ' .. owner_key, ttl_s)
end
note_of_member(index_key, 'job ' .. job_id, ttl_s)
local max_returns = tonumber(ARGV[12])
return max_returns > 0 and n_returns >= max_returns and 'granted_too_often' or 'granted'
