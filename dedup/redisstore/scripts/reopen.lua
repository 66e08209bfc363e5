-- reopen makes a dead or forgotten key ready for the replay of one letter. The letter's fence decides, never the
-- generation: by the generation alone an old letter opens a later death.
--
-- KEYS  1 the record
-- ARGV  1 fence of the letter, 2 its generation, 3 fingerprint ('-' if none), 4 '1' to bind the fingerprint anew,
--       5 retention (milliseconds)
-- reply reopened, already-open, resolved, not-settled or unreadable

local r, unreadable = load(KEYS[1])
if unreadable then
  return 'unreadable'
end
local fence, fp, rebind, retention = tonumber(ARGV[1]), ARGV[3], ARGV[4] == '1', tonumber(ARGV[5])
if not r or (r.state == 'd' and r.fence == fence) then
  local old = r or { fp = fp, created = now }
  local fresh = {
    state = 'f', fence = next_fence(r), nonce = '-', attempt = 0, abandoned = 0, interrupted = 0,
    generation = tonumber(ARGV[2]) + 1, fp = rebind and fp or old.fp, lease_until = 0, not_before = now,
    retention = retention, created = old.created, failed = 0, class = '-', cause = '', result = '',
  }
  store(KEYS[1], fresh, retention, true)
  tell(KEYS)
  return 'reopened'
end
if (r.state == 'f' or r.state == 'a' or r.state == 'o') and r.fence ~= fence then
  if r.state == 'f' and rebind and r.fp ~= fp then
    r.fp = fp
    store(KEYS[1], r, r.retention, true)
    tell(KEYS)
  else
    confirm(KEYS[1])
  end
  return 'already-open'
end
if r.state == 'c' or (r.state == 'd' and r.fence > fence) then
  confirm(KEYS[1])
  return 'resolved'
end
return 'not-settled'
