-- Keeps a claim alive; with a.promote_to_start, turns a probe into a start; with a.restore, claims again what Redis has
-- forgotten. One step, because extending a claim that is no longer ours would steal it.
--
-- a.attempt a.op a.action a.epoch a.generation a.fingerprint a.recording a.stops_at   the lease, as its claim was answered
-- a.promote_to_start  a start will be sent now, with this a.fingerprint and a.recording: the quiet time counts from here.
--                     Refused where the epoch is another than at the claim: a server that may have forgotten us may
--                     have forgotten a start as well
-- a.max_duration      for how long (ms) the start that is sent now may record at most
-- a.restore           Redis may have lost the record (restart, failover): put it back unless another attempt has begun
--                     a later operation, of which this one is then the predecessor
--
-- Returns a JSON object: `how` is ok, restored or lost; `stop` says whether a stop was asked for meanwhile;
-- `generation` and `stops_at` are the recording's.

local r = load()
if newer(r) then return cjson.encode({ how = 'lost', stop = false, now = now }) end
local how = 'ok'
local changes = { lease = now + a.lease } -- rule: renew-the-lease-only

-- What a release puts back: as it was, and nothing that was sent before may land.
local function nothing_lands()
  local before = found_before(r)
  before.may_land_until = nil
  return cjson.encode(before)
end

local since = epoch()
if a.promote_to_start and since ~= a.epoch then -- rule: promote-in-the-epoch-of-the-claim
  return cjson.encode({ how = 'lost', stop = false, now = now })
end

-- Ours, but from before we began to send: what came after that was forgotten.
local reverted = r.holder == a.attempt and a.action == 'start' and r.action ~= 'start' and not a.promote_to_start

if r.holder ~= a.attempt or reverted then -- rule: fence
  -- Of two attempts at one operation, the one that this server knows only from before its epoch is the earlier one.
  local believed = num(r.epoch) >= since -- rule: one-attempt-of-two
  local later = r.op and (num(r.op) > num(a.op) or (r.op == a.op and (r.done == a.op or believed)))
  local may_restore = a.restore and not a.promote_to_start -- rule: restore
  if not reverted and (later or not may_restore) then
    return cjson.encode({ how = 'lost', stop = false, now = now })
  end
  how = 'restored'
  changes.v, changes.holder, changes.op, changes.action = VERSION, a.attempt, a.op, a.action
  changes.generation, changes.fingerprint, changes.recording = a.generation, a.fingerprint, a.recording
  changes.stops_at = num(a.stops_at) -- rule: restore-the-end
  changes.waiting, changes.before = '1', nothing_lands()
  changes.granted, changes.epoch = now, since
  if a.action == 'stop' then
    changes.state, changes.stop_may_land_until = 'stopping', now + a.quiet
  elseif a.action == 'start' then
    changes.state, changes.start_may_land_until, changes.started_at = 'starting', now + a.quiet, now
    changes.started_op = a.op
  else
    -- A probe sends nothing, but what it looks for may still be on its way.
    changes.state, changes.start_may_land_until = 'unknown', now + a.quiet
  end
end

if a.promote_to_start then
  changes.action, changes.state, changes.started_op = 'start', 'starting', a.op
  -- A generation of its own: what was recorded under the operation's number before may have been shown to a caller.
  changes.generation = text(math.max(now_us, num(a.op) + 1))
  changes.fingerprint, changes.recording = a.fingerprint, a.recording
  changes.stops_at = end_of(num(a.max_duration)) -- rule: bound-of-a-promoted-start
  changes.before, changes.start_may_land_until, changes.started_at = nothing_lands(), now + a.quiet, now
end

-- A stop that was requested before this operation is not about what that starts.
local stop = num(r.stop_requested_at) > math.max(num(a.op), num(changes.started_op or r.started_op))
save(changes, a.ttl)
schedule(now + a.lease, a.ttl)
return cjson.encode({
  how = how, stop = stop, now = now, generation = changes.generation or a.generation,
  stops_at = num(changes.stops_at or a.stops_at),
})
