-- settle ends claims for good.
--
-- KEYS  the records
-- ARGV  for each key: fence, nonce, state ('c' consumed, 'o' dead with its letter owed, 'd' dead; anything else is
--       lost), class ('-' if none), cause, result, retention (milliseconds)
-- reply for each key: ok, lost or unreadable

-- Most claims that are settled are consumed at the first try. Their records follow this pattern behind the nonce, and need
-- not be taken apart field by field. It takes only what load would take, in its only spelling: numbers of few digits, and
-- times of 16 digits below 2^53.
local moment = '[1-8]' .. string.rep('%d', 15)
local rest_plain = '^([1-9]%d?%d? %d %d 1 )([-0-9a-f]+) ' .. moment .. ' 0 [1-9]%d?%d?%d?%d?%d?%d?%d?%d?%d?%d? ('
  .. moment .. ') 0 ' .. moment .. ' %- 0\n$'
local no_digest = string.rep('0', 32)

-- consume_plain settles a claim of that kind as consumed. Nil means that it is not of that kind, and was not changed.
local function consume_plain(key, fence, nonce, result, retention)
  local raw = redis.pcall('GET', key)
  if type(raw) ~= 'string' then
    return nil
  end
  local owner = fence .. ' ' .. nonce .. ' '
  if string.sub(raw, 1, 4 + #owner) ~= '1 a ' .. owner then
    return nil
  end
  if nonce == '-' or #nonce > max_text or not string.find(nonce, '^[!-~]+$')
    or #fence > 16 or not string.find(fence, '^[1-8]%d*$') then
    return nil
  end
  local counts, fp, created = string.match(raw, rest_plain, 5 + #owner)
  if not counts or not (fp == '-' or (#fp == 32 and fp ~= no_digest and not string.find(fp, '-', 1, true))) then
    return nil
  end
  if redis.call('PTTL', steps_of(key)) > 0 then
    redis.call('PEXPIRE', steps_of(key), retention)
  end
  redis.call('SET', key, string.format('1 c %s%s%s 0 0 %s %s 0 %.0f - 0\n', owner, counts, fp, retention, created, now) .. result,
    'PX', retention)
  settled[#settled + 1] = key
  return 'ok'
end

local function settle_one(key, fence, nonce, state, class, cause, result, retention)
  local r, unreadable = load(key)
  if unreadable then
    return 'unreadable'
  end
  if not owns(r, fence, nonce) or not (state == 'c' or state == 'o' or state == 'd') then
    return 'lost'
  end
  if r.state == state or (r.state == 'd' and state == 'o') then
    confirm(key) -- repeated
    return 'ok'
  end
  if r.state ~= 'a' then
    return 'lost'
  end
  settle(key, r, state, class, cause, result, retention)
  return 'ok'
end

local reply = {}
for i, key in ipairs(KEYS) do
  local a = 7 * (i - 1)
  local fence, nonce, state, result, retention = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 6], ARGV[a + 7]
  reply[i] = state == 'c' and retention ~= '0' and consume_plain(key, fence, nonce, result, retention)
    or settle_one(key, tonumber(fence), nonce, state, ARGV[a + 4], ARGV[a + 5], result, tonumber(retention))
end
tell(settled)
return reply
