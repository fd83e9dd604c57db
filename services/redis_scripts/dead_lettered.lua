-- Notes that a failed job's message is safe in the dead-letter queue, and ends the caller's lease; not that of a replay.
-- KEYS: job:status, lease, the mark that a dead letter is due. ARGV: token.
redis.call('DEL', KEYS[3])
if redis.call('HGET', KEYS[1], 'status') == 'failed' and redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('DEL', KEYS[2])
end
return 1
