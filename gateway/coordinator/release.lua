-- Gives a track back as it was, because nothing was sent. The operation keeps its number and stays unfinished: those
-- who wait are woken and contend again, and a stop that was wished for meanwhile is not lost.
--
-- a.attempt a.result
--
-- Returns a JSON object: `how` is ok or lost.

local r = load()
if newer(r) or r.holder ~= a.attempt then -- rule: fence
  return cjson.encode({ how = 'lost', now = now })
end

local changes = { holder = '', owner = '', doing = '', lease = '0', waiting = '0' }
local state = r.before_state or ''
if state == '' then state = 'failed' end
changes.state, changes.generation, changes.fingerprint = state, r.before_generation, r.before_fingerprint
changes.recording = r.before_recording or ''
if r.doing == 'start' then changes.start_quiet = num(r.before_quiet) end
if r.doing == 'stop' then changes.stop_quiet = num(r.before_quiet) end
save(changes, a.ttl)
-- Those who wait come back at once. If they do not, the settler forgets the stop: there is nothing to stop.
local rests = (state == 'failed' or state == 'stopped') and num(changes.start_quiet or r.start_quiet) == 0
local clean = (r.intent or '') == '' and num(r.doubt) == 0
schedule(rests and clean and 0 or (rests and now + 1000 or now), a.ttl)
wake(r, r.op, a.result)
return cjson.encode({ how = 'ok', now = now })
