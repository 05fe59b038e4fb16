-- Gives a target back as it was, because nothing was sent. The operation keeps its number and stays unfinished: those
-- who wait are woken and claim again, and a stop that was requested meanwhile is not lost.
--
-- a.attempt
-- a.result    what those who wait receive, JSON; '' has them look for themselves
-- a.asked_at  the number of the stop that could not be sent, 0 where there is none: its caller learns that, so it
--             is withdrawn; unless another was requested meanwhile
--
-- Returns a JSON object: `how` is ok or lost.

local r = load()
if newer(r) or r.holder ~= a.attempt then -- rule: fence
  return cjson.encode({ how = 'lost', now = now })
end

local before = found_before(r)
local state = before.state or 'failed'
local changes = {
  holder = '', action = '', lease = '0', waiting = '0', before = '', state = state,
  generation = before.generation or '0', fingerprint = before.fingerprint or '', recording = before.recording or '',
  stops_at = num(before.stops_at),
}
if r.action == 'start' then changes.start_may_land_until = num(before.may_land_until) end
if r.action == 'stop' then
  changes.stop_may_land_until = num(before.may_land_until)
  if num(r.stop_requested_at) == num(a.asked_at) then changes.stop_requested_at = num(r.started_op) end
end
-- It was shown to no reader, and no other stop was requested: soon nothing is left.
local never = r.action == 'stop' and is_unheard_of(r)
local noted = num(changes.stop_requested_at or r.stop_requested_at) > num(r.started_op)
save(changes, never and not noted and BRIEFLY or a.ttl, never)
-- Those who wait come back at once. If they do not, the reconciler forgets the stop: there is nothing to stop.
local is_over = is_ended(state) and num(changes.start_may_land_until or r.start_may_land_until) == 0
local clean = not stop_due(r) and num(r.suspect_since) == 0
schedule(is_over and clean and 0 or (is_over and now + 1000 or now), a.ttl)
wake(r, r.op, a.result)
return cjson.encode({ how = 'ok', now = now })
