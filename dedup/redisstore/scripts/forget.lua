-- forget removes a record, an unreadable one too, and its steps.
--
-- KEYS  1 the record
-- ARGV  1 '1' to remove it although a lease runs
-- reply ok, absent or running

local r, unreadable = load(KEYS[1])
if not r and not unreadable then
  return 'absent'
end
if r and r.state == 'a' and r.lease_until > now and ARGV[1] ~= '1' then
  return 'running'
end
redis.call('DEL', KEYS[1], steps_of(KEYS[1]))
if uncompacted then
  uncompacted(KEYS[1])
end
tell(KEYS)
return 'ok'
