-- Keeps a claim alive; with a.promote_to_start, turns gathering evidence into starting; with a.restore, claims again what Redis
-- has forgotten. One step, because extending a claim that is no longer ours would steal it.
--
-- a.attempt a.op a.action a.generation a.fingerprint a.recording a.owner a.lease a.quiet a.ttl
-- a.promote_to_start      a start will be sent now: the quiet time counts from here. Refused where the epoch is another than at the
--            claim: a server that may have forgotten us may have forgotten a start as well
-- a.restore  Redis may have lost the record (restart, failover): put it back unless somebody has begun a later
--            operation. A holder of an earlier one is a predates of what was lost
--
-- Returns a JSON object: `how` is ok, restored or lost; `stop` says whether a stop was asked for meanwhile;
-- `generation` is the recording's.

local r = load()
if newer(r) then return cjson.encode({ how = 'lost', stop = false, now = now }) end
local how = 'ok'
local changes = { lease = now + a.lease } -- rule: renew-the-lease-only

local since = epoch()
if a.promote_to_start and since ~= a.epoch then -- rule: arm-in-the-epoch-of-the-claim
  return cjson.encode({ how = 'lost', stop = false, now = now })
end

-- Ours, but from before we started_op to send: what came after that was forgotten.
local reverted = r.holder == a.attempt and a.action == 'start' and r.action ~= 'start' and not a.promote_to_start

if r.holder ~= a.attempt or reverted then -- rule: fence
  -- Of two attempts at one operation, the one that this server's memory knows only from before its epoch is the predates.
  local believed = num(r.epoch) >= since -- rule: one-attempt-of-two
  local later = r.op and (num(r.op) > num(a.op) or (r.op == a.op and (r.done == a.op or believed)))
  local may_restore = a.restore and not a.promote_to_start -- rule: restore
  if not reverted and (later or not may_restore) then
    return cjson.encode({ how = 'lost', stop = false, now = now })
  end
  how = 'restored'
  changes.v, changes.holder, changes.owner, changes.op, changes.action = VERSION, a.attempt, a.owner, a.op, a.action
  changes.generation, changes.fingerprint, changes.waiting = a.generation, a.fingerprint, '1'
  changes.before_quiet, changes.recording = '0', a.recording
  changes.granted, changes.epoch = now, since
  -- A restored start is later than whatever stop the record still tells of.
  if a.action == 'start' and (r.intent or '') ~= a.op then changes.intent, r.intent = '', '' end
  if a.action == 'stop' then
    changes.state, changes.stop_may_land_until = 'stopping', now + a.quiet
  elseif a.action == 'start' then
    changes.state, changes.start_may_land_until, changes.started_at = 'starting', now + a.quiet, now
    changes.started_op = a.op
  else
    -- Looking sends nothing, but what a recoverer looks for may still be on its way.
    changes.state = a.action == 'verify' and 'recording' or 'unknown'
    if a.action == 'recover' then changes.start_may_land_until = now + a.quiet end
  end
end

if a.promote_to_start then
  changes.action, changes.state, changes.started_op = 'start', 'starting', a.op
  -- A generation of its own: what was recorded under the operation's number before may have been told to somebody.
  changes.generation = text(math.max(now_us, num(a.op) + 1))
  changes.fingerprint, changes.recording = a.fingerprint, a.recording
  changes.before_quiet, changes.start_may_land_until, changes.started_at = '0', now + a.quiet, now
  -- What the stop was about is proven gone.
  if r.intent and r.intent ~= a.op then changes.intent, r.intent = '', '' end
end

save(changes, a.ttl)
schedule(now + a.lease, a.ttl)
return cjson.encode({
  how = how, stop = r.intent == a.op, now = now, generation = changes.generation or a.generation,
})
