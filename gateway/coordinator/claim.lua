-- Decides, in one step, what a caller who wants something of this track has to do: lead an operation, wait for one,
-- or take an answer that is already there. One step, because between a look and a claim another replica may claim.
-- Running it twice with one attempt gives the same answer, so a reply that was lost may be asked for again.
--
-- a.command         start | stop | check (check: nobody asks, the settler looks after what is uncertain)
-- a.attempt      unique name of this logical call; fences every later write      a.owner  which process
-- a.fingerprint  of the start's parameters, '' for stop and check           a.recording  what callers may read of it
-- a.seen         operation this caller waits for, ''; answered `done` with its result if it has finished
-- a.target       a stop's generation, '': a newer recording is not the one this stop was about
--                a start's first asking (ms), '': of a retry, which is not carried out after a stop that came later
-- a.asked_ago    how long ago (ms) a stop was asked for whose earlier try may have been heard, else 0
-- a.not_after    refuse to act later than this: a command that its client gave up on still runs when Redis resumes
-- a.lease a.trust a.quiet a.memory a.grace a.ttl   a.verify_absent  auto | always | never
--
-- Returns a JSON object; `verdict` is one of
--   lead      the attempt holds the track and must carry out `action`: start, stop, verify (is it still recording?)
--             or recover (what became of an operation nobody finished, or of a track this server may have forgotten)
--   wait      another attempt holds it (`action`), or Redis came up just now (`grace`)
--   done      the awaited operation's `result`
--   running   it records, and that is believed           idle    nothing records, and that is believed
--   gone      a newer recording than the stop's target, or a stop that was asked for after the start's
--   conflict  it records, or starts, with other parameters
--   late      too late to act                 busy/noop  check only: somebody is at it / nothing to do
--   newer     a later version of the gateway has written the record: not for this one to touch

local since = epoch()
local r = load()

local state = r.state or ''
local before = state
local op = r.op or '0'
local generation = r.generation or '0'
local start_may_land_until, stop_may_land_until = num(r.start_may_land_until), num(r.stop_may_land_until)
local suspect_since = num(r.suspect_since)
local ended = state == '' or state == 'stopped' or state == 'failed'

local predates = predates_epoch(r, since) and now <= since + a.memory -- rule: forgotten
local suspect = predates or suspect_since > 0
local fresh = not suspect and num(r.confirmed) > 0
  and now - num(r.confirmed) <= a.trust -- rule: trust

if a.verify_absent == 'always' then suspect = suspect or ended end
if a.verify_absent == 'never' then suspect = suspect_since > 0 or (suspect and state ~= '') end

local function answer(verdict, action)
  return cjson.encode({
    verdict = verdict, action = action or '', op = op, now = now, state = state, before = before,
    lease_left = math.max(num(r.lease) - now, 0),
    generation = generation, fingerprint = r.fingerprint or '',
    recording = r.recording or '', result = r.result or '',
    confirmed = num(r.confirmed), confirmed_by = r.confirmed_by or '', ended_at = num(r.ended_at),
    start_may_land_ms = math.max(start_may_land_until - now, 0), stop_may_land_ms = math.max(stop_may_land_until - now, 0),
    epoch = since, started_at = num(r.started_at), written = num(r.written),
    evidence = r.evidence or '', because = r.because or '',
  })
end

-- A start that comes after a stop supersedes it; one whose operation the stop was waiting for does not.
local superseding = a.command == 'start' and ended and (r.intent or '') ~= '' and not (r.intent == op and r.done ~= op)

local function lead(action)
  -- An operation that nobody finished keeps its number, so that those who wait for it stay attached.
  -- One begun before this server's epoch gets a new one: others may have begun later ones that are forgotten, and
  -- whoever led them must find that the track has moved on.
  local new = r.done == op or op == '0' or num(r.epoch) < since
  if new then op = text(math.max(now_us, num(op) + 1)) end
  r.lease = text(now + a.lease)
  local changes = {
    v = VERSION, op = op, holder = a.attempt, owner = a.owner, lease = r.lease, action = action, waiting = '0',
    granted = now, epoch = since,
    before_state = state, before_generation = generation, before_fingerprint = r.fingerprint or '',
    before_recording = r.recording or '',
  }
  -- Tried again while it is not known how it went; what is settled begins anew.
  local settled = new and (ended or state == 'recording')
  changes.tries = settled and 1 or num(r.tries) + 1
  if superseding then changes.intent = '' end
  if a.command == 'stop' then changes.stop_asked = now end
  if action == 'start' then
    changes.before_quiet, changes.start_may_land_until = start_may_land_until, now + a.quiet
    state, generation, r.fingerprint = 'starting', op, a.fingerprint
    changes.started_at, r.started_at, changes.started_op = now, now, op
    changes.recording, r.recording = a.recording, a.recording
  elseif action == 'stop' then
    -- The intent is this stop's now: who else waits for it must not take the recording for a newer one than it meant.
    if (r.intent or '') ~= '' then changes.intent = op end
    changes.before_quiet, changes.stop_may_land_until = stop_may_land_until, now + a.quiet
    state = 'stopping'
  end
  changes.state, changes.generation, changes.fingerprint = state, generation, r.fingerprint or ''
  save(changes, a.ttl)
  schedule(num(r.lease), a.ttl)
  return answer('lead', action)
end

local function wait()
  redis.call('HSET', record, 'waiting', '1') -- rule: wake-waiters
  if superseding then redis.call('HSET', record, 'intent', '') end
  return answer('wait', r.action)
end

-- For a moment after this server may have forgotten something nobody new may lead: those who hold an operation that it
-- forgot claim it again first (renew.lua, a.restore). Nor is a claim believed that was granted before: it may be of an
-- operation long over, and what has come since, and was forgotten, is what a caller's wish is about.
local grace_left = since + a.grace - now
local believed = held(r) and num(r.epoch) >= since

if newer(r) then return answer('newer') end
if a.not_after > 0 and now > a.not_after then return answer('late') end -- rule: not-after
if (r.holder or '') == a.attempt then return answer('lead', r.action) end -- rule: one-grant-an-attempt
if -- rule: hand-over
  a.seen ~= ''
  and a.seen == r.done -- rule: own-result
then return answer('done') end

if predates and grace_left > 0 and not believed then -- rule: grace
  r.lease = text(now + grace_left)
  return answer('wait', 'grace')
end

local must_stop = state == 'stopping'
  or (not ended and (r.intent or '') ~= '') -- rule: intent

-- A recording that was found and not started by us has parameters that nobody knows: they cannot be said to differ.
local differs = (r.fingerprint or '') ~= '' and r.fingerprint ~= a.fingerprint

if a.command == 'start' then
  -- A retry counts as asked when it was first asked: a stop that somebody has asked for since is the later wish. Decided
  -- here, because it may be asked for between any look of ours and this claim. A start in flight may be our own.
  local overruled = a.target ~= '' and num(r.stop_asked) > num(a.target)
  if overruled and not (held(r) and r.action == 'start') then return answer('gone') end
  if held(r) then
    if r.action == 'start' and differs then return answer('conflict') end
    return wait()
  end
  if must_stop then
    -- A stop without an answer is repeated when it is due, not as fast as starts come.
    local again = num(redis.call('ZSCORE', due, record))
    if state == 'stopping' and r.done == op and again > now then
      r.lease = text(again)
      return answer('wait', 'stop')
    end
    return lead('stop')
  end
  if state == 'recording' then
    if not fresh then return lead('verify') end
    if differs then return answer('conflict') end
    return answer('running')
  end
  -- Never a blind second start: whatever may still land, or may have been forgotten, is looked at first.
  if not ended or start_may_land_until > 0 or stop_may_land_until > now or suspect then return lead('recover') end -- rule: look-first
  return lead('start')
end

if a.command == 'reconcile' then
  if held(r) then return answer('busy') end
  if must_stop then return lead('stop') end
  if state == 'recording' then return lead('verify') end
  if ended and start_may_land_until == 0 and suspect_since == 0 then
    schedule(0, a.ttl)
    if (r.intent or '') ~= '' then redis.call('HSET', record, 'intent', '') end
    return answer('noop')
  end
  return lead('recover')
end

-- stop
-- A newer recording is not what this stop was about, unless a stop waits for the very operation that started_op it. An earlier
-- try may have left its wish, and the wish been carried out: then a recording whose start was claimed after it is newer.
-- One that was in flight when it came is not, nor one that was found since: that may have run all along.
local newer_one = a.target ~= '' and (num(r.started_op) > 0 and num(r.started_op) or num(generation)) > num(a.target)
local asked_us = now_us - a.asked_ago * 1000
newer_one = newer_one or (a.target == '' and a.asked_ago > 0 and num(r.started_op) > asked_us)
if newer_one and (r.intent or '') ~= op then return answer('gone') end
if held(r) then
  -- The wish outlives its caller: whoever finishes the operation in flight carries it out.
  if r.action ~= 'stop' then redis.call('HSET', record, 'intent', op) end -- rule: note-stop
  redis.call('HSET', record, 'stop_asked', text(now))
  return wait()
end
if ended and state ~= '' and start_may_land_until == 0 and fresh then
  if (r.intent or '') ~= '' then redis.call('HSET', record, 'intent', '') end
  return answer('idle')
end
return lead('stop')
