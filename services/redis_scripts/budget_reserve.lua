-- Reserves what a call may use at the most, where requests and tokens of the window and the spend of the day have room.
-- Answers {'ok'}, {'over_spend'} or {'wait', ms until what is settled by now leaves room}.
-- What is reserved counts until it is settled, and what is settled for a whole window after that: a request is sent at
-- some time between, so no window of the provider's ever holds more than was counted here.
-- KEYS: window (a hash: what was settled by tick, and the sums of what is open), open (a sorted set of reservations by
-- the tick at which they are given up), and then the spend of the day before, of the day and of the day after.
-- ARGV: token, requests, tokens, nano-USD, the limits of these three (0: none), ms of the window, ticks in it, ms until
-- a reservation is given up, beginning and end of the day in s, now in ms (empty: the server's own clock).
local window_key, open_key = KEYS[1], KEYS[2]
local token, n_requests, n_tokens, cost = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local max_requests, max_tokens, max_cost = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local window_ms, n_ticks, lease_ms = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local day_begins_s, day_ends_s, now = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local tick_ms = window_ms / n_ticks
local tick = math.floor(now / tick_ms)
local function whole(number) return string.format('%.0f', number) end

local day_key = KEYS[4]
if now < day_begins_s * 1000 then day_key = KEYS[3] end
if now >= day_ends_s * 1000 then day_key = KEYS[5] end

-- What a worker reserved and never settled, because it died, counts as used when it is given up.
for _, lost in ipairs(redis.call('ZRANGEBYSCORE', open_key, '-inf', whole(now))) do
  local given_up = math.floor(tonumber(redis.call('ZSCORE', open_key, lost)) / tick_ms)
  local requests, tokens = string.match(lost, "^(%d+):(%d+):")
  redis.call('ZREM', open_key, lost)
  redis.call('HINCRBY', window_key, 'r' .. whole(given_up), requests)
  redis.call('HINCRBY', window_key, 't' .. whole(given_up), tokens)
  redis.call('HINCRBY', window_key, 'open_r', '-' .. requests)
  redis.call('HINCRBY', window_key, 'open_t', '-' .. tokens)
end

local open_requests = tonumber(redis.call('HGET', window_key, 'open_r') or '0')
local open_tokens = tonumber(redis.call('HGET', window_key, 'open_t') or '0')
local member = whole(n_requests) .. ':' .. whole(n_tokens) .. ':' .. whole(cost) .. ':' .. day_key .. '|' .. token
if redis.call('ZSCORE', open_key, member) then
  return {'ok', member}
end
if max_cost > 0 and tonumber(redis.call('GET', day_key) or '0') + cost > max_cost then
  return {'over_spend'}
end

-- One tick more than a window: the oldest may have begun before it.
local requests, tokens, by_tick = 0, 0, {}
local settled = redis.call('HGETALL', window_key)
for i = 1, #settled, 2 do
  local kind, at = string.match(settled[i], '^([rt])(%d+)$')
  if kind and tonumber(at) < tick - n_ticks then
    redis.call('HDEL', window_key, settled[i])
  elseif kind then
    local amount = tonumber(settled[i + 1])
    by_tick[at] = by_tick[at] or {at = tonumber(at), r = 0, t = 0}
    by_tick[at][kind] = amount
    if kind == 'r' then requests = requests + amount else tokens = tokens + amount end
  end
end
local function fits(requests_there, tokens_there)
  return (max_requests == 0 or requests_there + n_requests <= max_requests)
    and (max_tokens == 0 or tokens_there + n_tokens <= max_tokens)
end

if not fits(requests + open_requests, tokens + open_tokens) then
  local ticks, wait_ms = {}, 0
  for _, each in pairs(by_tick) do ticks[#ticks + 1] = each end
  table.sort(ticks, function(a, b) return a.at < b.at end)
  for _, each in ipairs(ticks) do
    if fits(requests, tokens) then break end
    requests, tokens = requests - each.r, tokens - each.t
    wait_ms = (each.at + n_ticks + 1) * tick_ms - now
  end
  return {'wait', whole(math.ceil(wait_ms))}
end

redis.call('ZADD', open_key, whole(now + lease_ms), member)
redis.call('HINCRBY', window_key, 'open_r', whole(n_requests))
redis.call('HINCRBY', window_key, 'open_t', whole(n_tokens))
redis.call('PEXPIRE', window_key, whole(2 * (lease_ms + window_ms)))
redis.call('PEXPIRE', open_key, whole(2 * (lease_ms + window_ms)))
if cost > 0 then
  add_spend(day_key, cost)
end
return {'ok', member}
