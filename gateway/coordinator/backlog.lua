-- Counts the uncertain ones among these records, and says since when they are. For operators: changes nothing. One
-- script, because reading each record by itself would cost a round trip for each.
--
-- KEYS  records of one bucket
--
-- Returns JSON: uncertain (how many), since (ms; when the oldest became so, 0 where none is)

local function num(value) return tonumber(value or 0) or 0 end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local uncertain, oldest = 0, 0
for _, record in ipairs(KEYS) do
  local r, flat = {}, redis.call('HGETALL', record)
  for i = 1, #flat, 2 do r[flat[i]] = flat[i + 1] end
  -- The leader died before it wrote the result, or another one is recovering the operation.
  local begun = r.state == 'starting' or r.state == 'stopping'
  local left = begun and (num(r.lease) <= now or r.action == 'probe')
  if r.state == 'unknown' or num(r.uncertain_since) > 0 or left then
    local since = num(r.uncertain_since) > 0 and num(r.uncertain_since) or num(r.granted)
    uncertain = uncertain + 1
    if oldest == 0 or since < oldest then oldest = since end
  end
end
return cjson.encode({ uncertain = uncertain, since = oldest })
