-- acquire claims keys.
--
-- KEYS  the records
-- ARGV  1 lease, 2 retention, 3 dead retention (milliseconds), 4 limit of attempts, 5 limit of abandonments (0: none),
--       6 'o' if letters are owed, 's' if not, 7 '1' if a WAIT follows; then for each key the part of a
--       new record from the nonce to the fingerprint
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

local function set_new(key, middle)
  return redis.call('SET', key, new_head .. middle .. new_tail, 'NX', 'PX', new_ttl)
end

-- acquire_new returns whether the key was not known, and if it was, what is there, unless the server is older than 7.0 or
-- that is not a string.
local acquire_new = set_new
if redis.REDIS_VERSION_NUM then
  acquire_new = function(key, middle)
    local raw = redis.pcall('SET', key, new_head .. middle .. new_tail, 'NX', 'GET', 'PX', new_ttl)
    if raw == false then
      return true
    elseif type(raw) == 'string' then
      return false, raw
    end
    return set_new(key, middle) -- not a string, or a server that is out of memory and says so
  end
end

-- consumed_print returns the fingerprint of a consumed record, nil if it is not one. It does not look at the rest: nothing
-- is written, and the caller reads all of it.
local function consumed_print(raw)
  if string.byte(raw, 3) == 99 then
    return string.match(raw, '^1 c %d+ [!-~]+ %d+ %d+ %d+ %d+ ([!-~]+) ')
  end
end

-- acquire_known returns the verdict, the record, and its time to live if it was written.
local function acquire_known(key, raw, nonce, fp)
  local r, unreadable
  if raw then
    r, unreadable = parse(raw)
  else
    r, unreadable = load(key)
  end
  if unreadable then
    return 'unreadable'
  end
  if not agrees(r, fp) then
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
  local middle = ARGV[7 + i]
  local digest, unreadable, new, raw
  if remembered then
    digest, unreadable = remembered(key)
  end
  if not digest and not unreadable then
    new, raw = acquire_new(key, middle)
  end
  if new then
    reply[i + 1] = 1
  else
    local nonce, fp = string.match(middle, '^(%S+) .* (%S+)$')
    local known, verdict, r, ttl = raw and not remembered and consumed_print(raw), nil, nil, nil
    if known then
      verdict, r = matches(known, fp) and 'duplicate' or 'conflict', { raw = raw }
    else
      verdict, r, ttl = acquire_known(key, raw, nonce, fp)
    end
    if waits and not ttl and verdict ~= 'busy' and verdict ~= 'conflict' and verdict ~= 'unreadable' then
      confirm(key) -- nothing was written, and the caller relies on what is there
    end
    reply[i + 1] = { verdict, r and r.raw or '', ttl or (r and (r.state and left(key, r) or redis.call('PTTL', key))) or 0 }
  end
end
tell(settled)
return reply
