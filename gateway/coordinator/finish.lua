-- Writes what became of an operation and wakes its waiters, in one step, so that no waiter can look
-- between the two. Fenced: only the attempt that holds the target may write, with the two exceptions below.
-- Running it twice changes nothing the second time.
--
-- a.attempt a.op a.action   whose finish it is
-- a.epoch     since when the server's memory could be believed when the operation was claimed
-- a.asked_at  the number of the stop that was led, 0 where none was
-- a.result    what those who wait receive, JSON. Its `record` is written: state, generation, fingerprint, recording (what
--             callers may read), started_at (when its start was granted), evidence (what VideoSDK's list says of it;
--             none leaves what is known), ended_at, because (none where only a webhook may tell), confirmed_by (reply
--             or list; none where the state is not confirmed), and stops_at
-- a.seen_ago  how long ago (ms) that was seen which is written
-- a.settled   nothing sent earlier can still land
-- a.answered  what this operation itself sent cannot land any more
-- a.due_in    look again after this long, 0 never
-- a.upstream  what VideoSDK answered last, in a word
-- a.late      written some time after it was true: nothing is confirmed, and those who wait look for themselves
-- a.stop_wanted                            of a rewrite: a stop was requested meanwhile
-- a.start_may_land_ms a.stop_may_land_ms   of a rewrite: for how long (ms) what was sent before may land
--
-- Returns a JSON object: `how` is
--   ok        written               repeated  was written before, by this very call or by who found the same
--   restored  Redis had forgotten the operation, and no other has begun: written
--   late      the holder is only recovering this same operation, and we hold the truth it looks for: written
--   stale     the target has moved on: nothing was written
-- and `stop` says whether a stop was asked for meanwhile; `start_may_land_ms` and `stop_may_land_ms` for how long (ms)
-- something sent may land.

local r = load()
if newer(r) then return cjson.encode({ how = 'stale', stop = false, now = now }) end
local since = epoch()
local new = cjson.decode(a.result).record
local evidence, confirmed_by = new.evidence or '', not a.late and new.confirmed_by or ''
local function answer(how, stop, start_may_land_until, stop_may_land_until)
  return cjson.encode({
    how = how, stop = stop, now = now,
    start_may_land_ms = math.max(num(start_may_land_until) - now, 0), stop_may_land_ms = math.max(num(stop_may_land_until) - now, 0),
  })
end
local how
-- Another leader took over and found in the list what this one has started: there is nothing to add.
local same_recording = a.action == 'start' and new.state == 'recording' and r.state == 'recording'
  and r.generation == new.generation
if r.holder == a.attempt then -- rule: fence
  -- Where a failover forgot that we began to send, it forgot the horizon too.
  how = a.action == 'start' and r.action ~= 'start' and 'restored' or 'ok'
elseif r.done == a.op
  and (r.finished_by == a.attempt or same_recording) -- rule: own-start-found-by-another
then
  return answer('repeated', false, r.start_may_land_until, r.stop_may_land_until)
elseif not r.op or num(r.op) < num(a.op) or (r.op == a.op and r.done ~= a.op and num(r.epoch) < since) then
  how = 'restored'
elseif r.op == a.op and r.done ~= a.op and new.state == 'recording'
  and r.action == 'probe' -- rule: late-truth-while-recovering
then
  how = 'late'
else
  return answer('stale', false)
end

local over = is_ended(new.state)
local uncertain = new.state == 'unknown' or new.state == 'stopping'
-- Those who wait may have to ask for it, if they do not hear of it; no other can.
local result = not a.late and awaited(r) and a.result or ''
local changes = {
  v = VERSION, state = new.state, op = a.op, done = a.op, result = result, finished_by = a.attempt,
  holder = '', action = '', lease = '0', waiting = '0', before = '', written = now, epoch = a.epoch,
  generation = new.generation or '0', fingerprint = new.fingerprint or '', recording = new.recording or '',
  stops_at = num(new.stops_at),
}
-- A suspicion that came up during the operation outlives it; one that the operation was begun with is answered by it. And
-- what others did after an operation that was claimed before the epoch may be forgotten: a probe has to look.
local past = a.epoch < since and not uncertain
local doubtful = past or (num(r.suspect_since) > 0 and num(r.suspect_since) >= num(r.granted))
changes.suspect_since = past and now or (doubtful and r.suspect_since or '0')
if confirmed_by ~= '' and not doubtful then
  changes.confirmed, changes.confirmed_by = now - a.seen_ago, confirmed_by
else
  changes.confirmed = '0'
end
if new.state == 'stopped' and (r.state ~= 'stopped' or how == 'restored') then
  changes.ended_at = math.min(num(new.ended_at), now)
end
if evidence ~= '' then changes.evidence = evidence end
if a.upstream ~= '' then changes.upstream = a.upstream end
if a.action == 'start' then
  changes.started_op = a.op
  if how == 'restored' then changes.started_at = math.min(num(new.started_at), now) end
elseif changes.generation ~= (r.generation or '0') then
  -- Found, not started: all that is known of its beginning is that it was before now.
  changes.started_at = now
end

-- A webhook tells why, never that: the state above is proven without it.
local heard_at, hint = string.match(r.hint or '', '^(%d+) (.*)$')
local hint_age = heard_at and now - num(heard_at)
if over then
  local hinted = heard_at and num(heard_at) >= num(r.started_at) and hint or ''
  changes.because = new.because or (is_ended(r.state) and r.because) or hinted
end
-- The list may be behind what was heard: look again until it has had time. What it still denies then was a replay; what
-- no list could show is remembered.
local behind = new.state == 'recording' and heard_at and hint_age < a.settle
if over or (new.state == 'recording' and confirmed_by ~= '' and not behind) then changes.hint = '' end
if behind then a.due_in = math.min(a.due_in > 0 and a.due_in or a.settle, 1500) end

-- Horizons: until when something already sent may still land.
local start_may_land_until, stop_may_land_until = num(r.start_may_land_until), num(r.stop_may_land_until)
if how == 'restored' then
  -- What the record forgot of others, who may tell it no more: this is the later operation.
  start_may_land_until = math.max(start_may_land_until, num(a.start_may_land_ms) > 0 and now + a.start_may_land_ms or 0)
  stop_may_land_until = math.max(stop_may_land_until, num(a.stop_may_land_ms) > 0 and now + a.stop_may_land_ms or 0)
  if a.action == 'stop' then r.stop_requested_at = math.max(num(r.stop_requested_at), num(a.op)) end
end
if new.state == 'recording' or a.settled then start_may_land_until = 0 end
if a.settled then stop_may_land_until = 0 end -- rule: settled
if how == 'ok' and a.answered and not a.settled then
  -- What this operation itself sent is answered; what was sent before it may land all the same.
  local sent_before = num(found_before(r).may_land_until)
  if a.action == 'start' and new.state ~= 'recording' then start_may_land_until = sent_before end
  if a.action == 'stop' then stop_may_land_until = sent_before end
elseif how == 'restored' and not a.settled then
  -- The horizon was lost with the record: count it anew.
  if new.state == 'unknown' then start_may_land_until = now + a.quiet end -- rule: restored-horizon
  if new.state == 'stopping' then stop_may_land_until = now + a.quiet end
end
changes.start_may_land_until, changes.stop_may_land_until = start_may_land_until, stop_may_land_until

-- Since when it is uncertain: tried again and again, it is still the same uncertainty.
changes.uncertain_since = uncertain and (num(r.uncertain_since) > 0 and r.uncertain_since or now) or '0'

-- A stop that was requested is due until nothing runs and nothing can land any more, or until its caller learns that it
-- failed; unless another was requested meanwhile.
local requested, started = num(r.stop_requested_at), num(changes.started_op or r.started_op)
if a.action == 'stop' and new.state == 'recording' and requested == num(a.asked_at) then -- rule: failed-stop-is-withdrawn
  requested = started
end
if how == 'restored' and a.stop_wanted then requested = math.max(requested, num(a.op) + 1) end
if over and start_may_land_until == 0 then -- rule: stop-what-may-land
  started = math.max(started, requested) -- rule: stop-is-carried-out
elseif over then
  if a.action == 'stop' then requested = math.max(requested, num(a.op)) end
  a.due_in = math.max(start_may_land_until - now, 0) + 1
end
changes.stop_requested_at, changes.started_op = requested, started
local stop = new.state == 'recording' and requested > started

-- What a stop did not find, and was shown to no reader, never was: there is nothing to show, and soon nothing to keep. The
-- list is asked once more when it has had time: it may be behind what began beside the gateway.
local never = new.state == 'stopped' and new.confirmed_by == 'list' and num(new.generation) == 0 and evidence == ''
  and not doubtful and is_unheard_of(r)
local forgets = never and start_may_land_until == 0 and stop_may_land_until <= now -- rule: keep-what-may-land
if forgets and a.due_in > 0 then a.due_in = a.settle + 100 end
save(changes, forgets and BRIEFLY or over and a.keep or a.ttl, never)
schedule((stop or doubtful) and now or (a.due_in > 0 and now + a.due_in or 0), a.ttl)
wake(r, a.op, result)
return answer(how, stop, start_may_land_until, stop_may_land_until)
