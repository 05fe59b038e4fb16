-- Writes down that VideoSDK's list agrees with the record, and what else it says of the recording. Only agreement needs
-- no claim: a list that disagrees is a question, and only the target's leader answers questions. One step, because
-- the record may have changed since the list was asked.
--
-- a.state a.generation   what the record said when the list was asked
-- a.agrees               false where the list could not be had: only the next look is planned
-- a.seen_ago             how long ago (ms) that was
-- a.evidence             what the list says of the recording, JSON; '' leaves what is known
-- a.due_in               look again after this long, 0 never
--
-- Returns a JSON object: `how` is ok, or stale where the record cannot be said to be what was compared.

local r = load()
local asked = now - a.seen_ago
local over = is_ended(a.state)
local predates = predates_epoch(r, epoch())
local open_end = (r.holder or '') ~= '' or stop_due(r) or (r.hint or '') ~= ''
  or num(r.start_may_land_until) > 0 or num(r.suspect_since) > 0
local moved_on = newer(r) or r.state ~= a.state or (r.generation or '0') ~= a.generation or open_end
if moved_on or (a.agrees and (predates or num(r.written) >= asked)) then
  return cjson.encode({ how = 'stale', now = now })
end

local changes = {}
if a.agrees and asked > num(r.confirmed) then changes.confirmed, changes.confirmed_by = asked, 'list' end
if a.evidence ~= '' then changes.evidence = a.evidence end
-- What was shown to no reader, and no list shows that has had time, never was: it is not looked at again, and goes.
local never = over and a.agrees and a.evidence == '' and asked - num(r.written) >= a.settle
  and num(r.stop_may_land_until) <= now and is_unheard_of(r)
if never then a.due_in = 0 end
if next(changes) then save(changes, never and BRIEFLY or over and 0 or a.ttl, never) end
schedule(a.due_in > 0 and now + a.due_in or 0, a.ttl)
return cjson.encode({ how = 'ok', now = now })
