-- Puts what a batch has cost in the place of what was reserved for it, on the day on which it was; once.
-- KEYS: note of the batch, spend of today, for a batch without a note. ARGV: nano-USD, lifetime of the note in s.
local note_key, today_key = KEYS[1], KEYS[2]
local note = redis.call('HMGET', note_key, 'nano_usd', 'day_key', 'settled')
if note[3] then
  return 0
end
local day_key = note[2] or today_key
local change = tonumber(ARGV[1]) - tonumber(note[1] or '0')
-- What is long past is not counted any more.
if change ~= 0 and (day_key == today_key or redis.call('EXISTS', day_key) == 1) then
  add_spend(day_key, change)
end
redis.call('HSET', note_key, 'settled', '1')
redis.call('EXPIRE', note_key, ARGV[2])
return 1
