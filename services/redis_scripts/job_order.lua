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
