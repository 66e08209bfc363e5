-- steps reads the steps of a record.
--
-- KEYS  1 the record; the steps are in steps_of(KEYS[1]), in the same slot
-- reply the steps in the form of dedup.EncodeSteps, empty if there are none; unreadable comes as a list of that one word

local r, unreadable = load(KEYS[1])
if unreadable then
  return { 'unreadable' }
end
local steps = r and redis.call('GET', steps_of(KEYS[1])) or ''
local owner = r and string.format('%.0f\n', r.created) or ''
if string.sub(steps, 1, #owner) ~= owner then
  return ''
end
return string.sub(steps, #owner + 1)
