-- Keeps a claim alive; with a.arm, turns gathering evidence into starting; with a.restore, claims again what Redis
-- has forgotten. One step, because extending a claim that is no longer ours would steal it.
--
-- a.attempt a.op a.doing a.generation a.fingerprint a.recording a.owner a.lease a.quiet a.ttl
-- a.arm      a start will be sent now: the quiet time counts from here. Refused where the epoch is another than at the
--            claim: a server that may have forgotten us may have forgotten a start as well
-- a.restore  Redis may have lost the record (restart, failover): put it back unless somebody has begun a later
--            operation. A holder of an earlier one is a ghost of what was lost
--
-- Returns a JSON object: `how` is ok, restored or lost; `stop` says whether a stop was asked for meanwhile;
-- `generation` is the recording's.

local r = load()
if newer(r) then return cjson.encode({ how = 'lost', stop = false, now = now }) end
local how = 'ok'
local changes = { lease = now + a.lease } -- rule: renew-the-lease-only

local since = epoch()
if a.arm and since ~= a.epoch then -- rule: arm-in-the-epoch-of-the-claim
  return cjson.encode({ how = 'lost', stop = false, now = now })
end

-- Ours, but from before we began to send: what came after that was forgotten.
local reverted = r.holder == a.attempt and a.doing == 'start' and r.doing ~= 'start' and not a.arm

if r.holder ~= a.attempt or reverted then -- rule: fence
  -- Of two attempts at one operation, the one that this server's memory knows only from before its epoch is the ghost.
  local believed = num(r.epoch) >= since -- rule: one-attempt-of-two
  local later = r.op and (num(r.op) > num(a.op) or (r.op == a.op and (r.done == a.op or believed)))
  local may_restore = a.restore and not a.arm -- rule: restore
  if not reverted and (later or not may_restore) then
    return cjson.encode({ how = 'lost', stop = false, now = now })
  end
  how = 'restored'
  changes.v, changes.holder, changes.owner, changes.op, changes.doing = VERSION, a.attempt, a.owner, a.op, a.doing
  changes.generation, changes.fingerprint, changes.waiting = a.generation, a.fingerprint, '1'
  changes.before_quiet, changes.recording = '0', a.recording
  changes.granted, changes.epoch = now, since
  -- A restored start is later than whatever stop the record still tells of.
  if a.doing == 'start' and (r.intent or '') ~= a.op then changes.intent, r.intent = '', '' end
  if a.doing == 'stop' then
    changes.state, changes.stop_quiet = 'stopping', now + a.quiet
  elseif a.doing == 'start' then
    changes.state, changes.start_quiet, changes.started_at = 'starting', now + a.quiet, now
    changes.began = a.op
  else
    -- Looking sends nothing, but what a recoverer looks for may still be on its way.
    changes.state = a.doing == 'verify' and 'recording' or 'unknown'
    if a.doing == 'recover' then changes.start_quiet = now + a.quiet end
  end
end

if a.arm then
  changes.doing, changes.state, changes.began = 'start', 'starting', a.op
  -- A generation of its own: what was recorded under the operation's number before may have been told to somebody.
  changes.generation = text(math.max(now_us, num(a.op) + 1))
  changes.fingerprint, changes.recording = a.fingerprint, a.recording
  changes.before_quiet, changes.start_quiet, changes.started_at = '0', now + a.quiet, now
  -- What the stop was about is proven gone.
  if r.intent and r.intent ~= a.op then changes.intent, r.intent = '', '' end
end

save(changes, a.ttl)
schedule(now + a.lease, a.ttl)
return cjson.encode({
  how = how, stop = r.intent == a.op, now = now, generation = changes.generation or a.generation,
})
