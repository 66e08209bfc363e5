-- adopt puts the record of another store in the place of one.
--
-- KEYS  1 the record
-- ARGV  1 fence of what is there now (0: nothing), 2 the other record in its stored form, 3 what is left of its lease,
--       4 what is left of its delay, 5 what is left of its memory (milliseconds; the times in the stored form are by the
--       other store's clock)
-- reply ok, lost or unreadable

local r, unreadable = load(KEYS[1])
if unreadable then
  return 'unreadable'
end
local other, unreadable_too = parse(ARGV[2])
if unreadable_too then
  return 'unreadable'
end
if r and r.fence == other.fence and r.nonce == other.nonce and r.state == other.state then
  confirm(KEYS[1]) -- repeated
  return 'ok'
end
if (r and r.fence or 0) ~= tonumber(ARGV[1]) then
  return 'lost'
end
other.lease_until, other.not_before = 0, 0
if other.state == 'a' then
  other.lease_until = now + tonumber(ARGV[3]) * 1000
elseif other.state == 'f' then
  other.not_before = now + tonumber(ARGV[4]) * 1000
end
local steps = redis.call('GET', steps_of(KEYS[1]))
if steps and r and r.created ~= other.created then -- they are bound to the time of creation
  local owner = string.format('%.0f\n', r.created)
  if string.sub(steps, 1, #owner) == owner then
    redis.call('SET', steps_of(KEYS[1]), string.format('%.0f\n', other.created) .. string.sub(steps, #owner + 1), 'PX', '1000')
  end
end
if uncompacted then
  uncompacted(KEYS[1])
end
store(KEYS[1], other, tonumber(ARGV[5]), false)
if other.state ~= 'a' then
  tell(KEYS)
end
return 'ok'
