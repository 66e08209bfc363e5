-- save_step keeps a step under a claim, in the place of one with its name or behind the others.
--
-- KEYS  1 the record; the steps are in steps_of(KEYS[1]), in the same slot
-- ARGV  1 fence, 2 nonce, 3 name, 4 data
-- reply ok, lost or unreadable
--
-- The stored form is a line with the time at which the record was created, and what dedup.EncodeSteps gives: for each step
-- a line of the lengths of name and data, name, data. Steps of a record with another time of creation are leftovers of one
-- that is gone (deleted by hand, evicted), and count for nothing.

local r, unreadable = load(KEYS[1])
if unreadable then
  return 'unreadable'
end
if not owns(r, tonumber(ARGV[1]), ARGV[2]) or r.state ~= 'a' then
  return 'lost'
end
local owner, name, data = string.format('%.0f\n', r.created), ARGV[3], ARGV[4]
local steps = redis.call('GET', steps_of(KEYS[1])) or ''
if string.sub(steps, 1, #owner) ~= owner then
  steps = owner
end
local entry = string.format('%.0f %.0f\n', #name, #data) .. name .. data
local out, at, known = { owner }, #owner + 1, false
while at <= #steps do
  local s, e, name_length, data_length = string.find(steps, '^(%d+) (%d+)\n', at)
  if not s then
    return 'unreadable'
  end
  local last = e + tonumber(name_length) + tonumber(data_length)
  if last > #steps then
    return 'unreadable'
  end
  if string.sub(steps, e + 1, e + tonumber(name_length)) == name then
    out[#out + 1], known = entry, true
  else
    out[#out + 1] = string.sub(steps, s, last)
  end
  at = last + 1
end
if not known then
  out[#out + 1] = entry
end
local ttl = store(KEYS[1], r, 0, true) -- settle.lua knows by this change that there are steps
redis.call('SET', steps_of(KEYS[1]), table.concat(out), 'PX', string.format('%.0f', ttl))
return 'ok'
