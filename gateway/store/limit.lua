-- Takes from a token bucket, for several callers at once. One step, because two replicas that both read before either
-- writes would both take the last token. Time is Redis's own.
--
-- KEYS  1 the bucket: "<tokens> <ms of the last change>"
-- ARGV  1 JSON: rate (tokens a second), burst (most it holds), cost (of each), count (callers), force (take even what is
--         not there: what was already spent is owed)
--
-- Returns JSON: granted (callers that got theirs), remaining (tokens, may be negative), wait (s until the cost of one more
-- is there; 0 where all got theirs), full (s until nothing is missing)

local a = cjson.decode(ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local tokens, at = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) (%d+)$')
tokens = tonumber(tokens or a.burst)
local passed = math.max(now - tonumber(at or now), 0) / 1000
tokens = math.min(tokens + passed * a.rate, a.burst)

-- What floating point lost of ten tenths must not cost an eleventh.
local least = 1e-6
local granted = a.count
if not a.force then
  if tokens + least < a.cost then granted = 0
  elseif a.cost > 0 then granted = math.min(a.count, math.floor((tokens + least) / a.cost)) end
end
tokens = tokens - granted * a.cost
local full = math.max(a.burst - tokens, 0) / a.rate
redis.call('SET', KEYS[1], string.format('%.6f %.0f', tokens, now), 'PX', math.ceil(full * 1000) + 1000)
return cjson.encode({
  granted = granted, remaining = tokens, full = full,
  wait = granted == a.count and 0 or math.max(a.cost - tokens, 0) / a.rate,
})
