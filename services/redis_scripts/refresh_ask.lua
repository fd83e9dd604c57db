-- Asks for the refresh of one member whose likes are told. refresh_burst.lua goes before this.
-- KEYS: due, burst, likes of the burst. ARGV: member, quiet, longest and drift time in microseconds, likes.
local likes_key = KEYS[3]
local begins = ask_refresh(KEYS[1], KEYS[2], ARGV[1], true, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
redis.call('DEL', likes_key)
for place = 5, #ARGV do
  redis.call('SADD', likes_key, ARGV[place])
end
return begins
