-- Says whether a model may be asked: 'closed', 'open', or 'probe' to the one caller that tries whether it is back.
-- KEYS: breaker. ARGV: token of the caller, ms a probe may take, now in ms (empty: the server's own clock).
local key, token, probe_ms, now = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local found = redis.call('HMGET', key, 'opens_again_at', 'probe', 'probe_ends_at')
if not found[1] then
  return 'closed'
end
if now < tonumber(found[1]) then
  return 'open'
end
if found[2] and found[2] ~= token and now < tonumber(found[3]) then
  return 'open'
end
redis.call('HSET', key, 'probe', token, 'probe_ends_at', string.format('%.0f', now + probe_ms))
return 'probe'
