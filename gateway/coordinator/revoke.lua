-- Takes a claim away from its holder, because an operator says so: the target is then as if the claim had lapsed. The
-- next leader finds out what became of the operation, and everything that was sent keeps its quiet time. One
-- step, because the holder may finish at any moment.
--
-- a.attempt  whose claim was looked at: another's is left alone
--
-- Returns a JSON object: `how` is ok, or lost where that attempt does not hold the target.

local r = load()
if newer(r) or (r.holder or '') == '' or r.holder ~= a.attempt then return cjson.encode({ how = 'lost', now = now }) end

save({ holder = '', owner = '', lease = '0', suspect_since = now, confirmed = '0' }, a.ttl)
schedule(now, a.ttl)
wake(r, r.op, '')
return cjson.encode({ how = 'ok', now = now })
