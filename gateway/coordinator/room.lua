-- Reads a whole room as it is at one moment: its records, and the last of its events, so that a reader who goes on from that
-- event misses nothing and sees nothing twice. One step, because a change between the two reads would be one or the
-- other. The records' names are members of the room's targets and lie in their slot by construction, so they are not
-- given as keys.
--
-- a.most   records at most: what runs or may run, then what has ended, and of both the latest changed
-- a.watch  a reader goes on from here: the events then live on, and where there are none a mark begins them. An id that
--          is not there any more tells that events may have been forgotten, so there must be one to hold on to.
--
-- Returns a JSON object: `last` event's id, `records` as pairs of key and fields in JSON.

local records = {}
for _, key in ipairs(redis.call('ZREVRANGE', targets, 0, a.most - 1)) do
  local fields = shown(key)
  if fields then
    records[#records + 1] = { key, fields }
  else
    redis.call('ZREM', targets, key)
  end
end
local last = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
if a.watch then
  last = last or { redis.call('XADD', events, '*', 'mark', '1') }
  redis.call('PEXPIRE', events, a.replay)
end
return cjson.encode({ last = last and last[1] or '0-0', records = #records > 0 and records or nil })
