-- settle ends claims for good.
--
-- KEYS  the records
-- ARGV  1 lease and 2 retention of the claims that go the short way, 3 their retention as consumed (milliseconds), 4 '1' if
--       results follow; then for each key its text, and its result if results follow. The short text, for a key that was
--       not known when it was claimed, of which nothing has changed since, and that is to be consumed, is the part of its
--       record from the fence to the fingerprint. The long one is '-', fence, nonce, state ('c' consumed, 'o' dead with its
--       letter owed, 'd' dead; anything else is lost), class ('-' if none), retention (milliseconds) and cause, parted by
--       spaces
-- reply ok if all are; else for each key: ok, lost or unreadable

-- Most claims are settled by the process that made them, which knows their records. Then the record is put together and
-- compared as a whole, and need not be taken apart. A record has one spelling, so one that differs has changed, or is
-- another's.
local lease, claimed_retention, retention, results = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'

local before, after = {}, {} -- what follows on a short text, in the record and in what takes its place; by the fence
local function follow(fence)
  before[fence] = string.format(' %.0f 0 %s %s 0 %s - 0\n', tonumber(fence) + tonumber(lease) * 1000, claimed_retention, fence, fence)
  after[fence] = string.format(' 0 0 %s %s 0 %.0f - 0\n', retention, fence, now)
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

-- One command reads all records. A key that comes twice was read too early for the second time, but then the caller knows
-- nothing of it any more. To a user without the right for it none looks like what it is taken for.
local records = {}
if #KEYS > 1 then
  records = redis.pcall('MGET', unpack(KEYS))
elseif string.byte(ARGV[5]) ~= 45 then
  records[1] = redis.pcall('GET', KEYS[1])
end

local reply, all, at = {}, true, 5
for i, key in ipairs(KEYS) do
  local text, result, short = ARGV[at], '', false
  if results then
    result = ARGV[at + 1]
  end
  if string.byte(text) ~= 45 then
    local fence = string.sub(text, 1, 16)
    if not before[fence] then
      follow(fence)
    end
    if records[i] == '1 a ' .. text .. before[fence] then
      -- There are no steps whose memory would have to follow: save_step changes the record.
      redis.call('SET', key, '1 c ' .. text .. after[fence] .. result, 'PX', retention)
      if compacted then
        compacted(key, {
          state = 'c', result = result, generation = 1, retention = tonumber(retention), fp = string.match(text, '%S+$'),
        }, tonumber(lease))
      end
      settled[#settled + 1] = key
      reply[i], short = 'ok', true
    else
      text = '-' .. string.match(text, '^%d+ %S+') .. ' c - ' .. retention .. ' '
    end
  end
  if not short then
    local fence, nonce, state, class, memory, cause = string.match(text, '^-(%d+) (%S+) (%S) (%S+) (%d+) (.*)$')
    reply[i] = settle_one(key, tonumber(fence), nonce, state, class, cause, result, tonumber(memory))
    all = all and reply[i] == 'ok'
  end
  at = at + (results and 2 or 1)
end
tell(settled)
return all and 'ok' or reply
