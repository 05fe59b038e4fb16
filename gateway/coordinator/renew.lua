-- Keeps a claim alive; with a.arm, turns gathering evidence into starting; with a.restore, claims again what Redis
-- has forgotten. One step, because extending a claim that is no longer ours would steal it.
--
-- a.attempt a.op a.doing a.generation a.fingerprint a.recording a.owner a.lease a.quiet a.ttl
-- a.arm      a start will be sent now: the quiet time counts from here. Refused where the epoch is another than at the
--            claim: a server that may have forgotten us may have forgotten a start as well
-- a.restore  Redis may have lost the record (restart, failover): put it back unless somebody has begun a later
--            operation. A holder of an earlier one is a ghost of what was lost
--
-- Returns a JSON object: `how` is ok, restored or lost; `stop` says whether a stop was asked for meanwhile.

local r = load()
local how = 'ok'
local changes = { lease = now + a.lease }

if a.arm and epoch() ~= a.epoch then return cjson.encode({ how = 'lost', stop = false, now = now }) end

if r.holder ~= a.attempt then
  local later = r.op and num(r.op) >= num(a.op)
  if a.arm or not a.restore or later then
    return cjson.encode({ how = 'lost', stop = false, now = now })
  end
  how = 'restored'
  changes.v, changes.holder, changes.owner, changes.op, changes.doing = '1', a.attempt, a.owner, a.op, a.doing
  changes.generation, changes.fingerprint, changes.waiting = a.generation, a.fingerprint, '1'
  changes.before_quiet, changes.recording = '0', a.recording
  if a.doing == 'stop' then
    changes.state, changes.stop_quiet = 'stopping', now + a.quiet
  elseif a.doing == 'start' then
    changes.state, changes.start_quiet, changes.started_at = 'starting', now + a.quiet, now
  else
    -- Looking sends nothing, but what a recoverer looks for may still be on its way.
    changes.state = a.doing == 'verify' and 'recording' or 'unknown'
    if a.doing == 'recover' then changes.start_quiet = now + a.quiet end
  end
end

if a.arm then
  changes.doing, changes.state = 'start', 'starting'
  changes.generation, changes.fingerprint, changes.recording = a.op, a.fingerprint, a.recording
  changes.before_quiet, changes.start_quiet, changes.started_at = '0', now + a.quiet, now
  -- What the stop was about is proven gone.
  if r.intent and r.intent ~= a.op then changes.intent, r.intent = '', '' end
end

save(changes, a.ttl)
schedule(now + a.lease, a.ttl)
return cjson.encode({ how = how, stop = (r.intent or '') ~= '', now = now })
