-- Ends a burst, unless another has begun meanwhile.
-- KEYS: due, burst, likes of the burst. ARGV: member, name of the burst.
if redis.call('HGET', KEYS[2], 'began_at') ~= ARGV[2] then
  return 0
end
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
