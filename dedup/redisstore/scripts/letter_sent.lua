-- letter_sent finishes a death: its letter is published and confirmed.
--
-- KEYS  1 the record
-- ARGV  1 fence of the letter
-- reply ok, lost or unreadable

local r, unreadable = load(KEYS[1])
if unreadable then
  return 'unreadable'
end
if not r or r.fence ~= tonumber(ARGV[1]) or (r.state ~= 'o' and r.state ~= 'd') then
  return 'lost'
end
if r.state == 'o' then
  r.state = 'd'
  store(KEYS[1], r, r.retention, true)
  tell(KEYS)
else
  confirm(KEYS[1])
end
return 'ok'
