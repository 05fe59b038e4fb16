-- Marks what is known of a track as doubtful: whoever asks next looks at VideoSDK first, and if nobody asks the settler
-- does. For what happened, or may have happened, outside the protocol. An operation in flight is told through the mark
-- too: its result is then stored unconfirmed. One step, because the mark must not be lost between a look and a write.
--
-- a.ttl
--
-- Returns a JSON object: `how` is ok.

local r = load()
save({ v = '1', doubt = now, confirmed = '0' }, a.ttl)
if not held(r) then schedule(now, a.ttl) end
return cjson.encode({ how = 'ok', now = now })
