-- Remembers what was asked under an idempotency key, and what was answered. One step, because of two equal requests at
-- once exactly one is the first.
--
-- KEYS  1 the key's hash: fingerprint, begun (ms), answer
-- ARGV  1 JSON: fingerprint, ttl (ms), answer ('' to begin, else to keep)
--
-- Returns JSON: verdict is
--   new      the key is new                          running  the key was used, and no answer was kept
--   replay   `answer` is what was answered           differs  the key was used for something else
-- and `begun` when it was first asked (ms by Redis's clock).

local a = cjson.decode(ARGV[1])
local record, fields = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do record[fields[i]] = fields[i + 1] end
local t = redis.call('TIME')
local begun = tonumber(record.begun or t[1] * 1000 + math.floor(t[2] / 1000))

local verdict = 'running'
if not record.fingerprint then verdict = 'new'
elseif record.fingerprint ~= a.fingerprint then verdict = 'differs'
elseif record.answer then verdict = 'replay' end

if verdict == 'new' then
  redis.call('HSET', KEYS[1], 'fingerprint', a.fingerprint, 'begun', string.format('%.0f', begun))
  redis.call('PEXPIRE', KEYS[1], a.ttl)
elseif verdict == 'running' and a.answer ~= '' then
  redis.call('HSET', KEYS[1], 'answer', a.answer)
  redis.call('PEXPIRE', KEYS[1], a.ttl)
end
return cjson.encode({ verdict = verdict, begun = begun, answer = record.answer or '' })
