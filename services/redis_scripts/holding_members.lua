-- The keys of members' documents that name one of their items, each after its member, as far as text can tell: whoever asks
-- looks again.
-- KEYS: index of each member. ARGV: prefixes of results of jobs, of latest:recommendation and of recommend, then of each
-- member: the member, how many items, and these.
local result_prefix, latest_prefix, view_prefix = ARGV[1], ARGV[2], ARGV[3]
local found, place = {}, 4

local function look(member, key, first, last)
  local document = redis.call('GET', key)
  for at = first, last do
    if document and string.find(document, ':' .. ARGV[at], 1, true) then
      found[#found + 1] = member
      found[#found + 1] = key
      return
    end
  end
end

for _, index_key in ipairs(KEYS) do
  local member, first, last = ARGV[place], place + 2, place + 1 + tonumber(ARGV[place + 1])
  look(member, latest_prefix .. member, first, last)
  look(member, view_prefix .. member, first, last)
  for _, entry in ipairs(redis.call('ZRANGE', index_key, 0, -1)) do
    local job = string.match(entry, '^job (.*)$')
    if job then
      look(member, result_prefix .. job, first, last)
    end
  end
  place = last + 1
end
return found
