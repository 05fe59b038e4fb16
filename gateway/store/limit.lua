-- Synchronises token buckets for one process: takes what it has spent, and hands out what it asks for. One step for each
-- bucket, because two replicas that both read before either writes would both take the last token. Time is Redis's own.
--
-- KEYS  1 the number of the last report of this process; then the buckets: "<tokens> <ms of the last change>"
-- ARGV  1 JSON: report (its number), buckets, in the order of their keys, each an array:
--         1 rate (tokens a second)  2 burst (most it holds)
--         3 spent: taken even where it is not there, since it is owed; negative gives back what was not used
--         4 need (for requests that wait)  5 spare (for those to come: at most a tenth of what is left, and no part of
--         one token, so that a bucket that is small or nearly empty is handed out exactly)
--
-- Returns JSON, for each bucket an array: what was handed out, and the tokens left, which may be negative.
--
-- A report may come twice, and late: where its reply was lost, or a Cluster's client has repeated it. What was spent is
-- taken once. What it asks for is handed out again: what no process gets to know of comes back with time.

local MARK_MS = 120000
local a = cjson.decode(ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local first = a.report > tonumber(redis.call('GET', KEYS[1]) or 0)
if first then redis.call('SET', KEYS[1], string.format('%.0f', a.report), 'PX', MARK_MS) end

local replies = {}
for number, asked in ipairs(a.buckets) do
  local rate, burst, spent, need, spare = unpack(asked)
  local key = KEYS[number + 1]
  local tokens, at = string.match(redis.call('GET', key) or '', '^(%S+) (%d+)$')
  tokens = tonumber(tokens or burst)
  local passed = math.max(now - tonumber(at or now), 0) / 1000
  tokens = math.min(tokens + passed * rate, burst)
  if first then tokens = math.min(tokens - spent, burst) end

  local given = math.max(math.min(need, tokens), 0)
  tokens = tokens - given
  local more = math.min(spare, tokens / 10)
  if more >= 1 then
    given = given + more
    tokens = tokens - more
  end
  local full = math.max(burst - tokens, 0) / rate
  redis.call('SET', key, string.format('%.6f %.0f', tokens, now), 'PX', math.ceil(full * 1000) + 1000)
  replies[number] = {given, tokens}
end
return cjson.encode(replies)
