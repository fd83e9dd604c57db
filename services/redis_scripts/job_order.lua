-- Put before the scripts that ask which of a member's jobs is the newer one.

-- An instant with nine digits of fraction, or nil. Java writes 0, 3, 6 or 9 digits, whose order as text is not that of
-- time; as numbers, nanoseconds would not fit into Lua's doubles.
local function sortable(instant)
  local seconds, fraction = string.match(instant or '', '^(%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d)%.?(%d*)Z$')
  return seconds and seconds .. '.' .. string.sub(fraction .. '000000000', 1, 9)
end

-- Texts of one shape that differ in digits alone: they compare alike in every locale. By the instant of the request
-- (sortable, or empty), then by that of the submission, of the first start, or now.
local function job_order(requested_at, submitted_at, started_at, now)
  local submitted = sortable(submitted_at) or sortable(started_at) or sortable(now)
  return (requested_at ~= '' and requested_at or submitted) .. ' ' .. submitted
end

-- Whether a member was forgotten after a job of that order was asked for: what it found must not be kept.
local function is_forgotten(forgotten_key, order)
  local at = redis.call('GET', forgotten_key)
  return at and string.sub(order, 1, #at) <= at
end

-- The same of a job that is under way. One that told no instant has that of its status, which goes with the member.
local function is_forgotten_meanwhile(forgotten_key, order, requested_at, started_at)
  return is_forgotten(forgotten_key, order)
    or (requested_at == '' and not started_at and redis.call('EXISTS', forgotten_key) == 1)
end

-- Notes in the member's index, which is how all that is kept of them is found again, that there is ``entry``.
local function note_of_member(index_key, entry, ttl_s)
  local now_s = tonumber(redis.call('TIME')[1])
  redis.call('ZREMRANGEBYSCORE', index_key, '-inf', now_s)
  -- A minute longer than what it names.
  redis.call('ZADD', index_key, now_s + tonumber(ttl_s) + 60, entry)
  local last = redis.call('ZRANGE', index_key, -1, -1, 'WITHSCORES')
  redis.call('EXPIREAT', index_key, last[2])
end

-- What the member has refused lately, in the order of texts.
local function refused_items(refused_key)
  local refused = redis.call('SMEMBERS', refused_key)
  table.sort(refused)
  return refused
end
