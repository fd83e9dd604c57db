-- Learns how a call ended, and returns the state after it: 'closed', 'half_open' or 'open'.
-- KEYS: breaker, failures. ARGV: token of the caller, 'ok', 'failed' or 'neither', failures that open it, window in ms,
-- cool-down in ms, now in ms (empty: the server's own clock).
local key, failures_key, token, outcome = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local n_failures, window_ms, cool_down_ms, now = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function open()
  redis.call('DEL', key, failures_key)
  redis.call('HSET', key, 'opens_again_at', string.format('%.0f', now + cool_down_ms))
  -- A model that nobody asks for again must not stay here for ever.
  redis.call('PEXPIRE', key, 86400000 + cool_down_ms)
  return 'open'
end

local found = redis.call('HMGET', key, 'opens_again_at', 'probe')
if found[1] then
  if found[2] ~= token then
    -- A call from before it opened, or of a probe that took too long, tells nothing about now.
    return now < tonumber(found[1]) and 'open' or 'half_open'
  end
  if outcome == 'failed' then
    return open()
  end
  if outcome == 'neither' then
    redis.call('HDEL', key, 'probe', 'probe_ends_at')
    return 'half_open'
  end
  redis.call('DEL', key, failures_key)
  return 'closed'
end

redis.call('ZREMRANGEBYSCORE', failures_key, '-inf', string.format('%.0f', now - window_ms))
if outcome == 'ok' then
  -- Each success takes one failure back: what opens the breaker is failures outrunning successes.
  redis.call('ZPOPMIN', failures_key)
elseif outcome == 'failed' then
  redis.call('ZADD', failures_key, now, token)
  redis.call('PEXPIRE', failures_key, window_ms)
  if redis.call('ZCARD', failures_key) >= n_failures then
    return open()
  end
end
return 'closed'
