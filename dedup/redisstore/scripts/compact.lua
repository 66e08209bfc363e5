-- compact remembers consumed keys without results in hashes of many keys, as a digest of each with its expiry. This file
-- stands between record.lua and every script of a store with Config.Layout Moving or Compact, and fills in what record.lua
-- leaves open.
--
-- ARGV  behind those of the script: for each key the name of its bucket and its digest (16 bytes), then '1' if consumed keys
--       go into buckets (Compact), '0' if they are only looked up there (Moving)
--
-- A bucket is a hash: digest -> expiry in seconds since 1970 (4 bytes), first 4 bytes of the fingerprint (0: none). A record
-- that is there counts, and its digest does not. A bucket lives as long as the digest that is remembered the longest.

local compacts, places = ARGV[#ARGV] == '1', {}
for i, key in ipairs(KEYS) do
  places[key] = #ARGV - 2 * (#KEYS - i + 1)
end

local sampled = 2 -- entries that are looked at for each new one, so that sweeping outruns growing
local least = 2000 -- milliseconds; what is remembered for less is not worth a bucket

-- remembered returns what a digest says of a key, in the form of a record; nil if nothing, and nil and true if its bytes mean
-- nothing to this version.
remembered = function(key)
  local entry = redis.call('HGET', ARGV[places[key]], ARGV[places[key] + 1])
  if not entry then
    return nil, false
  elseif #entry ~= 8 then
    return nil, true
  end
  local expiry, short = struct.unpack('>I4I4', entry)
  if expiry * 1000000 <= now then
    return nil, false
  end
  local r = {
    state = 'c', fence = 0, nonce = '-', attempt = 1, abandoned = 0, interrupted = 0, generation = 1, fp = '-', short = short,
    lease_until = 0, not_before = 0, retention = 0, created = 0, failed = 0, updated = 0, class = '-', cause = '', result = '',
    left = math.ceil((expiry * 1000000 - now) / 1000),
  }
  r.raw = encode(r)
  return r, false
end

-- compacted puts a record that has just been consumed into its bucket, and lets the record itself live for one lease more,
-- so that a repeated settlement still finds its owner.
compacted = function(key, r, lease)
  if not compacts or r.state ~= 'c' or r.result ~= '' or r.generation ~= 1 or r.retention < lease + least
    or redis.call('PTTL', steps_of(key)) > 0 then
    return
  end
  local bucket, digest = ARGV[places[key]], ARGV[places[key] + 1]
  local expiry = math.ceil((now + r.retention * 1000) / 1000000)
  local short = r.fp == '-' and 0 or tonumber(string.sub(r.fp, 1, 8), 16)
  redis.call('HSET', bucket, digest, struct.pack('>I4I4', expiry, short))
  if redis.call('TTL', bucket) < expiry - math.floor(now / 1000000) then -- negative if it has none yet
    redis.call('EXPIREAT', bucket, string.format('%.0f', expiry + 1))
  end
  redis.call('PEXPIRE', key, string.format('%.0f', math.max(lease, 1)))
  local some = redis.call('HRANDFIELD', bucket, sampled, 'WITHVALUES')
  for i = 1, #some, 2 do
    if #some[i + 1] == 8 and struct.unpack('>I4', some[i + 1]) * 1000000 <= now then
      redis.call('HDEL', bucket, some[i])
    end
  end
end

-- uncompacted forgets the digest of a key. It says whether there was one.
uncompacted = function(key)
  return redis.call('HDEL', ARGV[places[key]], ARGV[places[key] + 1]) == 1
end

-- touched makes the bucket something that a WAIT waits for; see confirm.
touched = function(key)
  local ttl = redis.call('PTTL', ARGV[places[key]])
  if ttl > 0 then
    redis.call('PEXPIRE', ARGV[places[key]], ttl)
  end
end
