-- get reads records.
--
-- KEYS  the records
-- reply the store's time in microseconds as a string, then for each key: its bytes (false if absent, an empty string if
--       it is not a string at all), time to live in milliseconds

local reply = { string.format('%.0f', now) }
for _, key in ipairs(KEYS) do
  local raw = redis.pcall('GET', key)
  reply[#reply + 1] = type(raw) == 'table' and '' or raw
  reply[#reply + 1] = redis.call('PTTL', key)
end
return reply
