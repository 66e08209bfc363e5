-- extend restarts the lease of a claim, also after its end if nobody took over.
--
-- KEYS  1 the record
-- ARGV  1 fence, 2 nonce, 3 lease (milliseconds)
-- reply ok, lost or unreadable

local r, unreadable = load(KEYS[1])
if unreadable then
  return 'unreadable'
end
if not owns(r, tonumber(ARGV[1]), ARGV[2]) or r.state ~= 'a' then
  return 'lost'
end
local lease = tonumber(ARGV[3])
r.lease_until = now + lease * 1000
store(KEYS[1], r, r.retention + lease, true)
return 'ok'
