-- Marks a record as suspect: the next leader looks at VideoSDK first, and if no caller comes the reconciler does. For
-- what happened, or may have happened, outside the protocol. The mark also reaches an operation in flight: its result is
-- then stored unconfirmed. One step, because the mark must not be lost between a look and a write.
--
-- a.hint    what a webhook said of the target: the reason, if it turns out to have ended; '' where nothing was said.
--           Something heard concerns only what may be recording: what has ended cannot end again
--
-- Returns a JSON object: `how` is ok, or moot where a hint came to nothing, or the record is not ours to write.

local r = load()
if newer(r) then return cjson.encode({ how = 'moot', now = now }) end
if a.hint ~= '' then
  local state = r.state or ''
  if state == '' or state == 'stopped' or state == 'failed' then return cjson.encode({ how = 'moot', now = now }) end
  save({ v = VERSION, suspect_since = now, confirmed = '0', hint = a.hint, hint_at = now }, a.ttl)
else
  save({ v = VERSION, suspect_since = now, confirmed = '0' }, a.ttl)
end
if not held(r) then schedule(now, a.ttl) end
return cjson.encode({ how = 'ok', now = now })
