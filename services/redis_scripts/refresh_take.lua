-- Takes members whose refresh is due: {member, name of the burst, '1' where somebody is sure, likes that were told ...} each.
-- Who takes one has a lease of it; after that it is due again, by the same name. refresh_burst.lua goes before this.
-- KEYS: due. ARGV: members at the most, lease in microseconds, prefixes of bursts and of their likes.
local due_key, burst_prefix, likes_prefix = KEYS[1], ARGV[3], ARGV[4]
local now = microseconds()
local taken = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', due_key, '-inf', whole(now), 'LIMIT', 0, ARGV[1])) do
  local burst_key = burst_prefix .. member
  local known = redis.call('HMGET', burst_key, 'began_at', 'sure_at')
  if known[1] then
    redis.call('HSET', burst_key, 'taken', '1')
    redis.call('ZADD', due_key, whole(now + tonumber(ARGV[2])), member)
    local found = {member, known[1], known[2] and '1' or '0'}
    for _, item in ipairs(redis.call('SMEMBERS', likes_prefix .. member)) do
      found[#found + 1] = item
    end
    taken[#taken + 1] = found
  else
    redis.call('ZREM', due_key, member)
  end
end
return taken
