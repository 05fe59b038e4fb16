-- Gives a target back as it was, because nothing was sent. The operation keeps its number and stays unfinished: those
-- who wait are woken and contend again, and a stop that was requested meanwhile is not lost.
--
-- a.attempt a.result
-- a.asked_at  the number of the stop that could not be sent, 0 where there is none: its caller learns that, so it
--             is withdrawn; unless another was requested meanwhile
--
-- Returns a JSON object: `how` is ok or lost.

local r = load()
if newer(r) or r.holder ~= a.attempt then -- rule: fence
  return cjson.encode({ how = 'lost', now = now })
end

local changes = { holder = '', owner = '', action = '', lease = '0', waiting = '0' }
local state = r.before_state or ''
if state == '' then state = 'failed' end
changes.state, changes.generation, changes.fingerprint = state, r.before_generation, r.before_fingerprint
changes.recording = r.before_recording or ''
if r.action == 'start' then changes.start_may_land_until = num(r.before_quiet) end
if r.action == 'stop' then changes.stop_may_land_until = num(r.before_quiet) end
if r.action == 'stop' and num(r.stop_requested_at) == num(a.asked_at) then changes.stop_requested_at = num(r.started_op) end
save(changes, a.ttl)
-- Those who wait come back at once. If they do not, the settler forgets the stop: there is nothing to stop.
local rests = (state == 'failed' or state == 'stopped') and num(changes.start_may_land_until or r.start_may_land_until) == 0
local clean = not stop_due(r) and num(r.suspect_since) == 0
schedule(rests and clean and 0 or (rests and now + 1000 or now), a.ttl)
wake(r, r.op, a.result)
return cjson.encode({ how = 'ok', now = now })
