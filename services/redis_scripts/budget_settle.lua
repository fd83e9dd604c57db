-- Puts what a call has used in the place of what was reserved for it, and returns the spend of its day in nano-USD.
-- A reservation that was settled or given up before is left alone.
-- KEYS: window, open. ARGV: reservation, requests, tokens, nano-USD, ms of the window, ticks in it, now in ms (empty:
-- the server's own clock).
local window_key, open_key, member = KEYS[1], KEYS[2], ARGV[1]
local now = tonumber(ARGV[7])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local tick = string.format('%.0f', math.floor(now / (tonumber(ARGV[5]) / tonumber(ARGV[6]))))
local requests, tokens, nano_usd, day_key = string.match(member, '^(%d+):(%d+):(%d+):(.-)|')
if redis.call('ZREM', open_key, member) == 1 then
  redis.call('HINCRBY', window_key, 'open_r', '-' .. requests)
  redis.call('HINCRBY', window_key, 'open_t', '-' .. tokens)
  redis.call('HINCRBY', window_key, 'r' .. tick, ARGV[2])
  redis.call('HINCRBY', window_key, 't' .. tick, ARGV[3])
  add_spend(day_key, tonumber(ARGV[4]) - tonumber(nano_usd))
end
return redis.call('GET', day_key) or '0'
