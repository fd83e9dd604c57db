-- Puts a document in the place of another, if that is still there; its lifetime stays.
-- KEYS: document. ARGV: the other, the document.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1
