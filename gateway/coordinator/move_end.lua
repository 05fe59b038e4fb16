-- Writes again when a recording has to end, where Redis has forgotten that a start which joined it moved the end. One step,
-- because another may move it meanwhile.
--
-- a.generation  of the recording
-- a.moved_from  when it had to end before (ms; 0 never): where that is what the record says, the move was forgotten
-- a.stops_at    when it has to end
--
-- Returns a JSON object: `how` is ok; stale where nothing was forgotten, or the recording is over; early where
-- the recording itself was forgotten and has not been written again so far.

local r = load()
local how = 'stale'
if num(r.generation) < num(a.generation) and not newer(r) then
  how = 'early'
elseif
  not newer(r) and r.generation == a.generation and not is_ended(r.state)
  and num(r.stops_at) == num(a.moved_from) -- rule: move-once
then
  save({ stops_at = num(a.stops_at) }, a.ttl)
  how = 'ok'
end
return cjson.encode({ how = how, now = now })
