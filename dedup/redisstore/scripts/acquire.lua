-- acquire claims keys.
--
-- KEYS  the records
-- ARGV  1 lease, 2 retention, 3 dead retention (milliseconds), 4 limit of attempts, 5 limit of abandonments (0: none),
--       6 'o' if letters are owed, 's' if not, 7 '1' if a WAIT follows; then for each key: nonce, fingerprint ('-' if none)
-- reply the store's time in microseconds as a string, then for each key: 1 if it was not known and is granted, so that the
--       caller knows the record by itself (its fence is the time of the reply); else verdict, record, time to live in
--       milliseconds. Verdicts: granted busy duplicate dead owed conflict unreadable. Unreadable comes with an empty record.

local lease, retention, dead_retention = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local max_attempts, max_abandoned, dead_state, waits = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7] == '1'
local abandoned_message = 'the lease of the last try ran out: its owner vanished or lost its connection'

local function die(key, r, nonce, class, cause)
  r.fence, r.nonce = next_fence(r), nonce
  local ttl = settle(key, r, dead_state, class, cause, '', dead_retention)
  return dead_state == 'o' and 'owed' or 'dead', r, ttl
end

-- Most keys are not known. Their records differ in nonce and fingerprint only, so they are written without being built
-- field by field, and one command both looks and writes.
local new_head = string.format('1 a %.0f ', next_fence(nil))
local new_tail = string.format(' %.0f 0 %.0f %.0f 0 %.0f - 0\n', now + lease * 1000, retention, now, now)
local new_ttl = string.format('%.0f', math.max(retention + lease, 1))

local function acquire_new(key, nonce, fp)
  return redis.call('SET', key, new_head .. nonce .. ' 1 0 0 1 ' .. fp .. new_tail, 'PX', new_ttl, 'NX')
end

-- acquire_known returns the verdict, the record, and its time to live if it was written.
local function acquire_known(key, nonce, fp)
  local r, unreadable = load(key)
  if unreadable then
    return 'unreadable'
  end
  if not matches(r.fp, fp) then
    return 'conflict', r
  end
  if r.state == 'c' then
    return 'duplicate', r
  elseif r.state == 'd' then
    return 'dead', r
  elseif r.state == 'o' then
    return 'owed', r
  elseif r.state == 'a' then
    if r.lease_until > now then
      if r.nonce == nonce then
        return 'granted', r
      end
      return 'busy', r
    end
    r.abandoned = r.abandoned + 1
    if r.failed == 0 then
      r.failed = r.lease_until
    end
    if max_abandoned > 0 and r.abandoned >= max_abandoned then
      return die(key, r, nonce, 'abandoned', abandoned_message)
    end
    if max_attempts > 0 and r.attempt >= max_attempts then
      return die(key, r, nonce, 'exhausted', abandoned_message)
    end
  else -- failed; a nonce that has released its claim is spent
    if r.not_before > now or r.nonce == nonce then
      return 'busy', r
    end
    if max_attempts > 0 and r.attempt >= max_attempts then
      return die(key, r, nonce, 'exhausted', r.cause)
    end
  end
  if r.fp == '-' then
    r.fp = fp
  end
  r.state, r.fence, r.nonce, r.attempt = 'a', next_fence(r), nonce, r.attempt + 1
  r.lease_until, r.not_before, r.retention = now + lease * 1000, 0, retention
  return 'granted', r, store(key, r, retention + lease, true)
end

local reply = { string.format('%.0f', now) }
for i, key in ipairs(KEYS) do
  local nonce, fp = ARGV[6 + 2 * i], ARGV[7 + 2 * i]
  if acquire_new(key, nonce, fp) then
    reply[i + 1] = 1
  else
    local verdict, r, ttl = acquire_known(key, nonce, fp)
    if waits and not ttl and verdict ~= 'busy' and verdict ~= 'conflict' and verdict ~= 'unreadable' then
      confirm(key) -- nothing was written, and the caller relies on what is there
    end
    reply[i + 1] = { verdict, r and r.raw or '', ttl or (r and redis.call('PTTL', key)) or 0 }
  end
end
tell(settled)
return reply
