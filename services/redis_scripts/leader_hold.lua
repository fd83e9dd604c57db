-- Takes the leader's lease where it is free, or prolongs the caller's own; the fence of its term, or 0 where another's.
-- KEYS: lease, fence. ARGV: token, lease in ms, number that a new fence must be above.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
local fence = tonumber(redis.call('GET', KEYS[2]) or '0')
if not holder or fence == 0 then
  -- A Redis that lost its data counts from nothing; those who hold rows of ours know better.
  fence = math.max(fence, tonumber(ARGV[3])) + 1
  redis.call('SET', KEYS[2], string.format('%.0f', fence))
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return fence
