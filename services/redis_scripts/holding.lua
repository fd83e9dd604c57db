-- The keys of those documents that name one of the items, as far as text can tell: whoever asks looks again.
-- KEYS: documents. ARGV: ids of items.
local found = {}
for _, key in ipairs(KEYS) do
  local document = redis.call('GET', key)
  for _, item in ipairs(ARGV) do
    if document and string.find(document, ':' .. item, 1, true) then
      found[#found + 1] = key
      break
    end
  end
end
return found
