-- Adds to the spend of a day, in nano-USD, which is kept for three days: batches of the day before settle on it.
local function add_spend(day_key, nano_usd)
  redis.call('INCRBY', day_key, string.format('%.0f', nano_usd))
  redis.call('EXPIRE', day_key, 259200)
end
