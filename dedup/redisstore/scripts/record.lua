-- The record: how the scripts read, change and write one. This file stands in front of every script: script.go joins
-- the two texts, since scripts cannot load one another.
--
-- The stored form is that of dedup.EncodeRecord: one line of 17 fields, a newline, the cause's message, the result.
-- Redis runs the scripts one at a time, so a script is atomic. Fences and times are whole numbers below 2^53, which Lua
-- holds exactly; they are written with %.0f, because tostring would make 1.79e+15 of them.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local pattern = '^1 ([afcod]) (%d+) ([!-~]+) (%d+) (%d+) (%d+) (%d+) ([!-~]+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([!-~]+) (%d+)\n'

-- What compact.lua fills in, where a store has it.
local remembered, compacted, uncompacted, touched

local max_text = 64 -- bytes of a nonce or a class
local max_count = 2147483647
local max_number = 9007199254740992 -- 2^53
local max_retention = 9223372036854 -- milliseconds that a Go duration holds

local function header(r)
  return string.format('1 %s %.0f %s %.0f %.0f %.0f %.0f %s %.0f %.0f %.0f %.0f %.0f %.0f %s %.0f\n',
    r.state, r.fence, r.nonce, r.attempt, r.abandoned, r.interrupted, r.generation, r.fp,
    r.lease_until, r.not_before, r.retention, r.created, r.failed, r.updated, r.class, #r.cause)
end

local function encode(r)
  return header(r) .. r.cause .. r.result
end

-- sound says whether dedup.DecodeRecord would read these fields too. A fence of 2^53 is refused although it reads: no
-- larger one could follow it.
local function sound(r)
  return #r.nonce <= max_text and #r.class <= max_text
    and (r.fp == '-' or (#r.fp == 32 and not string.find(r.fp, '[^0-9a-f]') and string.find(r.fp, '[^0]')))
    and r.fence < max_number
    and r.attempt <= max_count and r.abandoned <= max_count
    and r.interrupted <= max_count and r.generation <= max_count
    and r.lease_until <= max_number and r.not_before <= max_number and r.retention <= max_retention
    and r.created <= max_number and r.failed <= max_number and r.updated <= max_number
end

-- parse returns the record of its stored form, or nil and true if these bytes mean nothing to this version. Its raw is what
-- is stored.
local function parse(raw)
  local s, e, state, fence, nonce, attempt, abandoned, interrupted, generation, fp,
    lease_until, not_before, retention, created, failed, updated, class, cause_length = string.find(raw, pattern)
  if not s then
    return nil, true
  end
  cause_length = tonumber(cause_length)
  if #raw < e + cause_length then
    return nil, true
  end
  local r = {
    state = state, fence = tonumber(fence), nonce = nonce, attempt = tonumber(attempt),
    abandoned = tonumber(abandoned), interrupted = tonumber(interrupted), generation = tonumber(generation), fp = fp,
    lease_until = tonumber(lease_until), not_before = tonumber(not_before), retention = tonumber(retention),
    created = tonumber(created), failed = tonumber(failed), updated = tonumber(updated), class = class,
    cause = string.sub(raw, e + 1, e + cause_length), result = string.sub(raw, e + cause_length + 1), raw = raw,
  }
  -- A number has one spelling, so what is written back must be what was read.
  if not sound(r) or header(r) ~= string.sub(raw, 1, e) then
    return nil, true
  end
  return r, false
end

-- load returns the record of a key, nil if there is none, or nil and true if its bytes mean nothing to this version.
local function load(key)
  local raw = redis.pcall('GET', key)
  if type(raw) == 'table' then -- an error: the key holds something that is not a string
    return nil, true
  end
  if not raw then
    if remembered then
      return remembered(key)
    end
    return nil, false
  end
  return parse(raw)
end

-- steps_of is the name of the key with the steps of a record. It has the record's hash tag, so it lives in the same slot,
-- and it matches the patterns that match the record, so that whoever may touch that may touch this. No record has such a
-- name: a brace in a key is escaped.
local function steps_of(key)
  return key .. ':steps}'
end

-- store writes the record, to be remembered for memory milliseconds from now; with keep never shorter than before. It
-- returns the time to live.
local function store(key, r, memory, keep)
  r.updated = now
  if keep then
    memory = math.max(memory, redis.call('PTTL', key)) -- negative if there is no record, or no time to live
  end
  memory = math.max(memory, 1) -- 0 would be an error, and take the other keys of the call along
  if redis.call('PTTL', steps_of(key)) > 0 then
    redis.call('PEXPIRE', steps_of(key), string.format('%.0f', memory)) -- they live as long as the record; first, since it needs a right of its own
  end
  r.raw = encode(r)
  redis.call('SET', key, r.raw, 'PX', string.format('%.0f', memory))
  return memory
end

-- confirm makes a record that stays as it is something that a WAIT behind this script waits for. Redis 7.2 and later wait
-- only for what their own connection wrote, and this record may be another connection's, not yet on any replica.
local function confirm(key)
  local ttl = redis.call('PTTL', key)
  if ttl > 0 then
    redis.call('PEXPIRE', key, ttl)
  elseif touched then
    touched(key)
  end
end

-- left is how long a record is still remembered, in milliseconds. One that is in its bucket too outlives itself.
local function left(key, r)
  if r.left then
    return r.left
  end
  local ttl = redis.call('PTTL', key)
  local digest = remembered and r.state == 'c' and remembered(key)
  return digest and math.max(ttl, digest.left) or ttl
end

-- next_fence is larger than the previous one and not smaller than the time, so that it grows over expiry too.
local function next_fence(r)
  if r and r.fence >= now then
    return r.fence + 1
  end
  return now
end

local function owns(r, fence, nonce)
  return r and nonce ~= '-' and r.fence == fence and r.nonce == nonce
end

local function matches(a, b)
  return a == b or a == '-' or b == '-'
end

-- agrees compares a fingerprint with that of a record, of which a digest has the beginning only.
local function agrees(r, fp)
  if r.short and r.short ~= 0 and fp ~= '-' then
    return r.short == tonumber(string.sub(fp, 1, 8), 16)
  end
  return matches(r.fp, fp)
end

-- tell tells who watches these keys (watch.go) that something has come of them. It asks first who listens: for many keys
-- that is one call, and what nobody hears does not go to the replicas. A server before 7.0 knows no sharded channels. A user
-- who may not do this tells nobody, and his change holds all the same.
local function tell(keys)
  if #keys == 0 then
    return
  end
  for _, by in ipairs({ { 'SHARDNUMSUB', 'SPUBLISH' }, { 'NUMSUB', 'PUBLISH' } }) do
    local listeners = redis.pcall('PUBSUB', by[1], unpack(keys))
    if not listeners.err then
      for i = 1, #listeners, 2 do
        if listeners[i + 1] > 0 then
          redis.pcall(by[2], listeners[i], '')
        end
      end
      return
    end
  end
end

local settled = {} -- the keys that settle was called for; scripts that call it end with tell(settled)

-- settle makes the record consumed or dead, and returns its time to live.
local function settle(key, r, state, class, cause, result, retention)
  local replayed, lease = r.generation > 1, (r.lease_until - r.updated) / 1000
  r.state, r.class, r.cause, r.result = state, class, cause, ''
  if state == 'c' then
    r.class, r.cause, r.result = '-', '', result
  elseif r.failed == 0 then
    r.failed = now
  end
  r.lease_until, r.not_before, r.retention = 0, 0, retention
  settled[#settled + 1] = key
  local ttl = store(key, r, retention, replayed)
  if compacted then
    compacted(key, r, lease)
  end
  return ttl
end
