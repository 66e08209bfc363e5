-- get reads records.
--
-- KEYS  the records
-- reply the store's time in microseconds as a string, then for each key: its bytes (false if absent, an empty string if
--       it is not a string at all), time to live in milliseconds

local reply = { string.format('%.0f', now) }
for _, key in ipairs(KEYS) do
  local raw = redis.pcall('GET', key)
  local ttl = redis.call('PTTL', key)
  if remembered and type(raw) ~= 'table' then -- consumed keys may be remembered longer than their records, or without
    local r, unreadable
    if raw then
      r = parse(raw)
    else
      r, unreadable = remembered(key)
    end
    if r then
      raw, ttl = r.raw, left(key, r)
    elseif unreadable then
      raw = ''
    end
  end
  reply[#reply + 1] = type(raw) == 'table' and '' or raw
  reply[#reply + 1] = ttl
end
return reply
