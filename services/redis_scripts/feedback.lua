-- Takes in what members did: what they were shown and reacted to, what they refused, and that a refresh may be due.
-- Sent twice it does the same once more, but that a burst which was taken in between is followed by another. What happened
-- before its member was forgotten does nothing: its row went with the others, between its writing and this.
-- refresh_burst.lua goes before this.
-- KEYS: due, then of each member: shown (a hash: '<days>:<last day>' by item), refused (a set of items), burst, likes of the
-- burst, when the member was forgotten. ARGV: lifetime of refused in s, quiet, longest and drift time in microseconds, then of each member: the member, how many events,
-- and of each event its type, its item (or an empty string) and its instant (sortable).
-- Returns of each member '1' where a burst began, '0' where none did, and then of each event '1' where its item was shown, '0'
-- where it was not, and '' where the event did nothing.
local VERDICTS = {like = true, unlike = true, dislike = true, forget = true}
local refused_ttl_s, quiet_us, longest_us, drift_us = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local told, key, place = {}, 2, 5
while place <= #ARGV do
  local member, n_events = ARGV[place], tonumber(ARGV[place + 1])
  local shown_key, refused_key, burst_key, likes_key = KEYS[key], KEYS[key + 1], KEYS[key + 2], KEYS[key + 3]
  local forgotten_at = redis.call('GET', KEYS[key + 4])
  local is_sure, does_something, were_shown = false, false, {}
  local has_likes = redis.call('EXISTS', likes_key) == 1
  for number = 0, n_events - 1 do
    local type, item, at = unpack(ARGV, place + 2 + 3 * number, place + 4 + 3 * number)
    if forgotten_at and at <= forgotten_at then
      were_shown[#were_shown + 1] = ''
    else
      does_something = true
      local shown = redis.call('HGET', shown_key, item)
      if shown then
        redis.call('HSET', shown_key, item, '0:' .. string.match(shown, ':(.*)$'))
      end
      were_shown[#were_shown + 1] = shown and '1' or '0'
      is_sure = is_sure or VERDICTS[type] or false
      if type == 'dislike' then
        redis.call('SADD', refused_key, item)
        redis.call('EXPIRE', refused_key, refused_ttl_s)
      elseif VERDICTS[type] then
        redis.call('SREM', refused_key, item)
      end
      if has_likes and type == 'like' then
        redis.call('SADD', likes_key, item)
      elseif has_likes and VERDICTS[type] then
        redis.call('SREM', likes_key, item)
      end
    end
  end
  told[#told + 1] = does_something
    and tostring(ask_refresh(KEYS[1], burst_key, member, is_sure, quiet_us, longest_us, drift_us)) or '0'
  for _, each in ipairs(were_shown) do
    told[#told + 1] = each
  end
  key, place = key + 5, place + 2 + 3 * n_events
end
return told
