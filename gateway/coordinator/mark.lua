-- Marks since when this server's memory can be believed, where that is not marked yet. One step, because two processes
-- may come up at once.
--
-- a.age  where no mark stands: how long ago (ms) this server is known to have been empty, and no gateway to have used
--        another one before; 0 where that is not known
--
-- Returns a JSON object: `since` (ms), and `now`.

return cjson.encode({ how = 'ok', since = epoch(a.age), now = now })
