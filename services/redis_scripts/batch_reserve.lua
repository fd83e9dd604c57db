-- Reserves what a batch may cost at the most, where the spend of the day has room: 1, else 0. A second time: 1.
-- KEYS: note of the batch, spend of the day. ARGV: nano-USD, ceiling of the day (0: none), lifetime of the note in s.
local note_key, day_key = KEYS[1], KEYS[2]
local cost, ceiling, ttl_s = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
if redis.call('EXISTS', note_key) == 1 then
  return 1
end
if ceiling > 0 and tonumber(redis.call('GET', day_key) or '0') + cost > ceiling then
  return 0
end
redis.call('HSET', note_key, 'nano_usd', ARGV[1], 'day_key', day_key)
redis.call('EXPIRE', note_key, ttl_s)
if cost > 0 then
  add_spend(day_key, cost)
end
return 1
