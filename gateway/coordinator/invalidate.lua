-- Marks a record as suspect: the next leader looks at VideoSDK first, and if no caller comes the reconciler does. For
-- what happened, or may have happened, outside the protocol. The mark also reaches an operation in flight: its result is
-- then stored unconfirmed. One step, because the mark must not be lost between a look and a write.
--
-- a.hint     what a webhook said of the target: the reason, if it turns out to have ended; '' where nothing was said.
--            It concerns only what may be recording: what has ended cannot end again
-- a.evidence what was learnt of the recording, JSON; '' leaves what is known
-- a.attempt  whose claim is taken away too, because an operator says so: it is then as if the claim had lapsed, and
--            everything that was sent keeps its quiet time. '' takes none away, and another's claim is left alone
-- a.may_land for how long (ms) what a process sent without this server may still land, or be missing from VideoSDK's list
--
-- Returns a JSON object: `how` is ok; lost where that attempt does not hold the target; ignored where nothing
-- may be recording that could have ended, or the record is not ours to write.

local r = load()
local revoked = a.attempt ~= ''
if revoked and (newer(r) or r.holder ~= a.attempt) then return cjson.encode({ how = 'lost', now = now }) end
local over = (r.state or '') == '' or is_ended(r.state)
if newer(r) or (a.hint ~= '' and over) then return cjson.encode({ how = 'ignored', now = now }) end

local changes = { v = VERSION, suspect_since = now, confirmed = '0' }
if (a.evidence or '') ~= '' then changes.evidence = a.evidence end
if num(a.may_land) > 0 then changes.uncoordinated_until = math.max(num(r.uncoordinated_until), now + a.may_land) end
if a.hint ~= '' then changes.hint = text(now) .. ' ' .. a.hint end
if revoked then changes.holder, changes.lease, r.holder = '', '0', '' end
save(changes, a.ttl)
if not held(r) then schedule(now, a.ttl) end
if revoked then wake(r, r.op, '') end
return cjson.encode({ how = 'ok', now = now })
