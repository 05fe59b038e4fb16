-- Decides, in one step, what a caller who wants something of this target has to do: lead an operation, wait for one,
-- or take an answer that is already there. One step, because between a look and a claim another replica may claim.
-- Running it twice with one attempt gives the same answer, so a reply that was lost may be asked for again.
--
-- a.command      start | stop | reconcile (no caller asks: the reconciler looks after what is uncertain)
-- a.attempt      unique name of this logical call, which begins with its process; fences every later write
-- a.fingerprint  of the start's parameters, '' for the others           a.recording  what callers may read of it
-- a.seen         operation this caller waits for, ''; answered `done` with its result if it has finished
-- a.asked_at     a number (as of operations): when this command was first asked for; '' where it is asked for now. A stop
--                is not about what was started later, and the retry of a start yields to a stop that was asked for later
-- a.asked_ago    how long ago (ms) a stop was asked for that has no number yet and whose earlier try may have been heard,
--                else 0
-- a.not_after    refuse to act later than this: a command that its client gave up on still runs when Redis resumes
-- a.verify_absent  auto | always | never
-- a.max_duration   of a start: for how long (ms) its caller has it record at most, counted from this grant or answer; 0 is
--                  not bounded. What a start joins ends no later; and where a.lengthens no earlier either
-- a.only_of        of a start: the caller's name, where it may change the end only of what it started itself; else ''
--
-- Returns a JSON object: `record` as the claim made it, `before` (the state in which it found it), `asked_at` (the
-- stop's number), `moved_from` (where the claim moved the end: when it was before), and `verdict`, which is one of
--   lead      the attempt holds the target and must carry out `action`: start, stop, or probe (what became of an
--             unfinished operation, of a recording that was seen long ago, or of what this server may have forgotten)
--   wait      another attempt holds it (`action`), or Redis came up just now (`grace`)
--   done      the awaited operation's `result`
--   running   it records, and that is believed           idle    nothing records, and that is believed
--   gone      a recording that was started after the stop was asked for, or a stop that was asked for after the start
--   conflict  it records, or starts, with other parameters
--   late      too late to act                 busy/noop  reconcile only: a leader is at it / nothing to do
--   newer     a later version of the gateway has written the record: not for this one to touch

local since = epoch()
local r = load()

local before = r.state or ''
local state = before
local op = r.op or '0'
local start_may_land_until, stop_may_land_until = num(r.start_may_land_until), num(r.stop_may_land_until)
local suspect_since = num(r.suspect_since)
-- Numbers of one counter: when a stop was requested last, and the operation that started what records. Where nothing
-- records and nothing can land any more, the latter is the last stop's: that one is carried out.
local requested, started = num(r.stop_requested_at), num(r.started_op)
local last = math.max(num(op), requested, started)
local function number()
  last = math.max(now_us, last + 1)
  return last
end
local asked_at = num(a.asked_at)
if a.command == 'stop' and asked_at == 0 then asked_at = a.asked_ago > 0 and now_us - a.asked_ago * 1000 or number() end
local ended = state == '' or is_ended(state)

-- Once its time is over, the record itself requests a stop, unless a caller's is due or comes now: that has its own reason.
local timed_stop = 0
if
  a.command ~= 'stop' and not ended and requested <= started
  and num(r.stops_at) > 0 and now >= num(r.stops_at) -- rule: time-is-over
then
  timed_stop = number()
  requested = timed_stop
end
local moved_from = ''

local predates = predates_epoch(r, since) and now <= since + a.memory -- rule: forgotten
local suspect = predates or suspect_since > 0

-- What this server may have forgotten was sent before its epoch, and has landed once Q has passed since; what a process
-- sent without it has landed by a moment that the process has said. Until then the record proves neither that something
-- records nor that nothing does.
local floor = predates and since + a.quiet or 0 -- rule: floor
floor = math.max(floor, num(r.uncoordinated_until)) -- rule: uncoordinated
if floor > now then
  start_may_land_until = math.max(start_may_land_until, floor)
  stop_may_land_until = math.max(stop_may_land_until, floor) -- rule: floor-of-stops
end

local fresh = not suspect and num(r.confirmed) > 0
  and now - num(r.confirmed) <= a.trust -- rule: trust

if a.verify_absent == 'always' then suspect = suspect or ended end
if a.verify_absent == 'never' then suspect = suspect_since > 0 or (suspect and state ~= '') end

local function answer(verdict, action)
  return cjson.encode({
    verdict = verdict, action = action or '', now = now, before = before, record = view(r),
    lease_left = math.max(num(r.lease) - now, 0), result = verdict == 'done' and r.result or '',
    start_may_land_ms = math.max(start_may_land_until - now, 0), stop_may_land_ms = math.max(stop_may_land_until - now, 0),
    epoch = since, asked_at = text(asked_at), written = num(r.written), moved_from = moved_from,
  })
end

-- A start that comes after a stop supersedes it; one whose operation the stop was waiting for does not.
local superseding = a.command == 'start' and ended and requested > started and not (requested > num(op) and r.done ~= op)

local function lead(action)
  -- An unfinished operation keeps its number, so that its waiters stay attached.
  -- One begun before this server's epoch gets a new one: others may have begun later ones that are forgotten, and
  -- their leaders must find that the target has moved on.
  -- One before which a stop was carried out gets a new one as well: what is started now is not what that was about.
  local new = r.done == op or op == '0' or num(r.epoch) < since
    or started > num(op) -- rule: new-number-after-a-stop
  if new then op = text(number()) end
  if superseding then started = requested end
  if a.command == 'stop' then requested = math.max(requested, asked_at) end
  -- Short where nothing was there: a record of short fields takes half the memory.
  local found = {
    state = r.state, generation = r.generation, fingerprint = r.fingerprint, recording = r.recording,
    stops_at = r.stops_at,
  }
  -- Tried again while it is not known how it went; what was certain begins anew.
  local was_certain = new and (ended or state == 'recording')
  local changes = {
    v = VERSION, op = op, holder = a.attempt, lease = now + a.lease, action = action,
    waiting = new and '0' or r.waiting or '0',
    granted = now, epoch = since, tries = was_certain and 1 or num(r.tries) + 1,
    state = state, generation = r.generation or '0', fingerprint = r.fingerprint or '',
    start_may_land_until = start_may_land_until, stop_may_land_until = stop_may_land_until,
  }
  if action == 'start' then
    started = num(op)
    found.may_land_until = start_may_land_until > 0 and start_may_land_until or nil
    changes.start_may_land_until = now + a.quiet
    changes.state, changes.generation, changes.fingerprint = 'starting', op, a.fingerprint
    changes.started_at, changes.recording = now, a.recording
    changes.stops_at = end_of(num(a.max_duration)) -- rule: bound-of-a-start
  elseif action == 'stop' then
    found.may_land_until = stop_may_land_until > 0 and stop_may_land_until or nil
    changes.stop_may_land_until = now + a.quiet
    changes.state = 'stopping'
  end
  changes.before, changes.stop_requested_at, changes.started_op = cjson.encode(found), requested, started
  if timed_stop > 0 then changes.timed_stop = timed_stop end -- rule: reason-of-a-timed-stop
  -- Anyone may ask to stop what never was: the room hears of it once something is found.
  save(changes, a.ttl, action == 'stop' and is_unheard_of(r)) -- rule: quiet-stop
  schedule(now + a.lease, a.ttl)
  for name, value in pairs(changes) do r[name] = type(value) == 'number' and text(value) or value end
  return answer('lead', action)
end

-- What stops were about is gone, or was started again since.
local function stops_done()
  if requested > started then redis.call('HSET', record, 'started_op', text(requested)) end
end

-- For a moment after this server may have forgotten something no new attempt may lead: leaders of an operation that it
-- forgot claim it again first (renew.lua, a.restore). Nor is a claim believed that was granted before: it may be of an
-- operation long over, and what has come since, and was forgotten, is what the caller's command is about.
local grace_left = since + a.grace - now
local believed = held(r) and num(r.epoch) >= since

if newer(r) then return answer('newer') end
if a.not_after > 0 and now > a.not_after then return answer('late') end -- rule: not-after
if (r.holder or '') == a.attempt then -- rule: one-grant-an-attempt
  before = found_before(r).state or ''
  return answer('lead', r.action)
end
if -- rule: hand-over
  a.seen ~= ''
  and a.seen == r.done -- rule: own-result
then return answer('done') end

if predates and grace_left > 0 and not believed then -- rule: grace
  r.lease = text(now + grace_left)
  return answer('wait', 'grace')
end

-- What the record is, for the table below: the first of these that is true.
local function row()
  -- A probe sends nothing: what has to end does not wait for it. It is as if its lease had lapsed.
  local outlasted = timed_stop > 0 and r.action == 'probe' -- rule: end-before-a-probe
  if held(r) and not outlasted then return r.action == 'start' and 'starting' or 'held' end
  if
    state == 'stopping'
    or (not ended and requested > started) -- rule: stop-is-due
  then
    return 'stop due'
  end
  if state == 'recording' then return fresh and 'recording' or 'stale' end
  if not ended or start_may_land_until > 0 or stop_may_land_until > now or suspect then return 'may land' end
  return 'ended'
end

-- The gateway does not know the parameters of a recording that it found: they are never said to differ.
local differs = (r.fingerprint or '') ~= '' and r.fingerprint ~= a.fingerprint

local function busy() return answer('busy') end

local function wait()
  redis.call('HSET', record, 'waiting', '1') -- rule: wake-waiters
  if superseding then stops_done() end
  return answer('wait', r.action)
end

local function wait_or_conflict() return differs and answer('conflict') or wait() end

-- The stop outlives its caller: it is carried out when the operation in flight has finished.
local function note_and_wait()
  redis.call('HSET', record, 'stop_requested_at', text(math.max(requested, asked_at))) -- rule: note-stop
  return wait()
end

-- A start bounds what it joins as well: its end comes earlier, and later only for who may lengthen, within the setting.
-- Who may not stop what others started may not bound it either.
local function running()
  local stops_at, wanted = num(r.stops_at), end_of(num(a.max_duration))
  if stops_at > 0 and wanted > stops_at and num(a.longest) > 0 then
    wanted = math.max(math.min(wanted, num(r.started_at) + a.longest), stops_at) -- rule: never-beyond-the-setting
  end
  local starter = (r.recording or '') ~= '' and cjson.decode(r.recording).requestedBy
  local may_bound = (a.only_of or '') == '' or starter == a.only_of -- rule: bound-only-what-one-may-stop
  if may_bound and wanted > 0 and wanted ~= stops_at
    and (stops_at == 0 or wanted < stops_at or a.lengthens) -- rule: shorten-only
  then
    moved_from = text(stops_at)
    save({ stops_at = wanted }, a.ttl)
    r.stops_at = text(wanted)
  end
  return answer('running')
end

local function running_or_conflict() return differs and answer('conflict') or running() end

local function lead_start() return lead('start') end

local function lead_stop() return lead('stop') end

-- A stop without an answer is repeated when it is due, not as fast as starts and questions come.
local function lead_stop_when_due()
  local again = num(redis.call('ZSCORE', due, record))
  if state == 'stopping' and r.done == op and again > now then
    r.lease = text(again)
    return answer('wait', 'stop')
  end
  return lead('stop')
end

local function lead_stop_or_idle()
  if not (ended and state ~= '' and start_may_land_until == 0 and fresh) then return lead('stop') end
  stops_done()
  return answer('idle')
end

-- Never a blind second start: whatever may still land, or may have been forgotten, is looked at first.
local function probe() return lead('probe') end

local function noop()
  schedule(0, a.ttl)
  redis.call('ZREM', ends, record)
  stops_done()
  return answer('noop')
end

-- A target at rest that is not suspect is left alone until a caller asks for it, whatever this server may have forgotten.
local function probe_or_noop()
  if ended and num(r.start_may_land_until) == 0 and suspect_since == 0 then return noop() end
  return probe()
end

-- The decision table, the same as in docs/protocol.md; each cell is a row of test_decisions.py.
local DECISIONS = {
  ['starting'] =  { start = wait_or_conflict,    stop = note_and_wait,     reconcile = busy },
  ['held'] =      { start = wait,                stop = note_and_wait,     reconcile = busy },
  ['stop due'] =  { start = lead_stop_when_due,  stop = lead_stop,         reconcile = lead_stop_when_due },
  ['recording'] = { start = running_or_conflict, stop = lead_stop,         reconcile = probe },
  ['stale'] =     { start = probe,               stop = lead_stop,         reconcile = probe },
  ['may land'] =  { start = probe,               stop = lead_stop_or_idle, reconcile = probe_or_noop }, -- rule: look-first
  ['ended'] =     { start = lead_start,          stop = lead_stop_or_idle, reconcile = noop },
}

-- The later command wins. A retry counts as asked when it was first asked: it yields to a stop that was asked for since,
-- except that a start in flight may be its own. A stop is about what was started before it was asked for, and about what
-- was found: that may have run all along. Decided here, because others may ask between any look of ours and this claim.
local overruled = a.command == 'start' and a.asked_at ~= '' and requested > asked_at
if overruled and row() ~= 'starting' then return answer('gone') end
if a.command == 'stop' and started > asked_at then return answer('gone') end

return DECISIONS[row()][a.command]()
