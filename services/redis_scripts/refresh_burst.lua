-- Put before the scripts that ask for the refresh of a member. A burst is what is asked for until a worker takes it; it
-- is a hash: began_at (microseconds, its name), sure_at (when first somebody was sure), taken. In the sorted set of what is
-- due stand members, by the microsecond at which they are.

local function microseconds()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function whole(number)
  return string.format('%.0f', number)
end

-- Asks once more, and returns 1 where that begins a burst. While a worker publishes the job of one, the next one begins:
-- its job may have looked at the member already. Should that worker die, the next burst does its work.
local function ask_refresh(due_key, burst_key, member, is_sure, quiet_us, longest_us, drift_us)
  local now = microseconds()
  local known = redis.call('HMGET', burst_key, 'began_at', 'sure_at', 'taken')
  local began_at, sure_at = tonumber(known[1]), tonumber(known[2])
  local begins = not began_at or known[3]
  if begins then
    began_at = now
    sure_at = sure_at and now
    redis.call('HDEL', burst_key, 'taken')
  end
  sure_at = sure_at or (is_sure and now) or nil
  redis.call('HSET', burst_key, 'began_at', whole(began_at))
  if sure_at then
    redis.call('HSET', burst_key, 'sure_at', whole(sure_at))
  end
  local due_at = sure_at and math.min(now + quiet_us, sure_at + longest_us) or began_at + drift_us
  redis.call('ZADD', due_key, whole(due_at), member)
  return begins and 1 or 0
end
