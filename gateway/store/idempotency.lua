-- Remembers what a caller asked under its idempotency keys, and what was answered, within bounds of the caller's own: the
-- oldest go first. One step, because of two equal requests at once exactly one is the first, and because what is added
-- and what goes for it are one sum.
--
-- KEYS  1 the caller's keys (hash): <name of a key> -> "<fingerprint> <begun, ms> <answer>"; their `count` and `bytes`
--       2 when each was written last (sorted set, us)
-- ARGV  1 JSON: name, fingerprint, answer ('' to begin, else to keep), remember (whether to write down that it began),
--       ttl (ms), most (keys), most_bytes (of names and what is kept under them)
--
-- Returns JSON: verdict is
--   new      the key is new                          running  the key was used, and no answer was kept
--   replay   `answer` is what was answered           differs  the key was used for something else
-- `begun` when it was first asked (ms by Redis's clock), and `forgotten`: how many went before their time.

local MOST_AT_ONCE = 1000
local a = cjson.decode(ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]

local function text(number) return string.format('%.0f', number) end
local function field(name) return redis.call('HMGET', KEYS[1], name)[1] or '' end

local count, bytes = tonumber(field('count')) or 0, tonumber(field('bytes')) or 0

local function drop(name)
  local value = field(name)
  if value ~= '' then count, bytes = count - 1, bytes - #value - #name end
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end

-- Their hours are over. The whole goes by its TTL where its caller does not come again.
local past = text(now - a.ttl * 1000)
local over = redis.call('ZRANGE', KEYS[2], '-inf', past, 'BYSCORE', 'LIMIT', 0, MOST_AT_ONCE)
for _, name in ipairs(over) do drop(name) end

local fingerprint, begun, answer = string.match(field(a.name), '^(%S+) (%d+) (.*)$')

local verdict = 'running'
if not fingerprint then verdict = 'new'
elseif fingerprint ~= a.fingerprint then verdict = 'differs'
elseif answer ~= '' then verdict = 'replay' end
begun = tonumber(begun or math.floor(now / 1000))

local forgotten = 0
local begins = verdict == 'new' and a.remember
local ends = a.answer ~= '' and (verdict == 'new' or verdict == 'running')
if begins or ends then
  drop(a.name)
  local value = a.fingerprint .. ' ' .. text(begun) .. ' ' .. a.answer
  redis.call('HSET', KEYS[1], a.name, value)
  redis.call('ZADD', KEYS[2], text(now), a.name)
  count, bytes = count + 1, bytes + #value + #a.name
  while forgotten < MOST_AT_ONCE and count > 0 and (count > a.most or bytes > a.most_bytes) do
    drop(redis.call('ZRANGE', KEYS[2], 0, 0)[1])
    forgotten = forgotten + 1
  end
end
if begins or ends or #over > 0 then
  redis.call('HSET', KEYS[1], 'count', count, 'bytes', bytes)
  redis.call('PEXPIRE', KEYS[1], a.ttl)
  redis.call('PEXPIRE', KEYS[2], a.ttl)
end
return cjson.encode({ verdict = verdict, begun = begun, answer = answer or '', forgotten = forgotten })
