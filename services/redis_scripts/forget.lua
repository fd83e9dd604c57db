-- Deletes all that is kept of a member, and marks that they were forgotten; returns how many keys there were of each of
-- its kinds: cached results, jobs, other keys of theirs, what they did, and refreshes that were asked for.
-- KEYS: when the member was forgotten, the member's index, due, burst, likes of the burst, refused, shown, latest:recommendation,
-- recommend, preference, order, provisional.
-- ARGV: instant (sortable), lifetime of the mark in s, member, the prefix of the mark that a job is forgotten, and the
-- prefixes of what a job has, that of its status first. A job that told no instant, and waits or is under way, is known to
-- be of before by its status alone, which goes: it is marked.
local forgotten_key, index_key, due_key = KEYS[1], KEYS[2], KEYS[3]
local known = redis.call('GET', forgotten_key)
-- Said again, however late: all of before is gone since the mark is there, and what there is now is of after it.
if known and known >= ARGV[1] then
  return {0, 0, 0, 0, 0}
end
redis.call('SET', forgotten_key, ARGV[1], 'EX', ARGV[2])

local n_jobs, n_others = 0, 0
for _, entry in ipairs(redis.call('ZRANGE', index_key, 0, -1)) do
  local kind, name = string.match(entry, '^(%a+) (.*)$')
  if kind == 'job' then
    local keys = {}
    for place = 5, #ARGV do
      keys[#keys + 1] = ARGV[place] .. name
    end
    local status = redis.call('HGET', keys[1], 'status')
    if status == 'queued' or status == 'running' then
      redis.call('SET', ARGV[4] .. name, '1', 'EX', ARGV[2])
    end
    n_jobs = n_jobs + math.min(1, redis.call('DEL', unpack(keys)))
  else
    n_others = n_others + redis.call('DEL', name)
  end
end
redis.call('DEL', index_key)
local n_asked = redis.call('ZREM', due_key, ARGV[3])
redis.call('DEL', KEYS[4], KEYS[5])
local n_done = redis.call('DEL', KEYS[6], KEYS[7])
local n_results = redis.call('DEL', unpack(KEYS, 8))
return {n_results, n_jobs, n_others, n_done, n_asked}
