-- Keeps an answer, unless its member was forgotten since its job was asked for. job_order.lua goes before this.
-- KEYS: answer, job:status, when the member was forgotten, the member's index. ARGV: now, lifetime in s, instant of the request
-- (sortable, or empty), fields and values.
local known = redis.call('HMGET', KEYS[2], 'submittedAt', 'startedAt')
if is_forgotten_meanwhile(KEYS[3], job_order(ARGV[3], known[1], known[2], ARGV[1]), ARGV[3], known[2]) then
  return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[1], ARGV[2])
note_of_member(KEYS[4], 'key ' .. KEYS[1], ARGV[2])
return 1
