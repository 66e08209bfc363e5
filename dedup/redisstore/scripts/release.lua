-- release ends a claim so that it can be retried.
--
-- KEYS  1 the record
-- ARGV  1 fence, 2 nonce, 3 class ('-' if none), 4 cause, 5 delay (milliseconds), 6 '1' if uncounted,
--       7 limit of interruptions (0: none)
-- reply ok, lost or unreadable

local r, unreadable = load(KEYS[1])
if unreadable then
  return 'unreadable'
end
if not owns(r, tonumber(ARGV[1]), ARGV[2]) then
  return 'lost'
end
if r.state == 'f' then
  confirm(KEYS[1]) -- repeated
  return 'ok'
end
if r.state ~= 'a' then
  return 'lost'
end
local delay, limit = tonumber(ARGV[5]), tonumber(ARGV[7])
r.state, r.class, r.cause = 'f', ARGV[3], ARGV[4]
if ARGV[6] == '1' then
  r.interrupted = r.interrupted + 1
  if (limit == 0 or r.interrupted <= limit) and r.attempt > 0 then
    r.attempt = r.attempt - 1
  end
elseif r.failed == 0 then
  r.failed = now
end
r.lease_until, r.not_before = 0, now + delay * 1000
store(KEYS[1], r, r.retention + delay, true)
tell(KEYS)
return 'ok'
