-- Prolongs those leases that still are the caller's, and counts them.
-- KEYS: leases. ARGV: lease in ms, then the token of each lease.
local n_renewed = 0
for i, lease_key in ipairs(KEYS) do
  if redis.call('GET', lease_key) == ARGV[i + 1] then
    n_renewed = n_renewed + redis.call('PEXPIRE', lease_key, ARGV[1])
  end
end
return n_renewed
