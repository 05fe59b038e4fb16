-- Shared by every script of the protocol: put in front of each of them before it is sent.
--
-- KEYS  1 the target's record (hash)   2 its project's due times in the bucket (sorted set)   3 its bucket's epoch (string)
--       4 its room's targets (sorted set)   5 its room's events (stream)
--       6 its project's ends in the bucket (sorted set)
-- ARGV  1 the arguments, one JSON object. All scripts get a.channel, a.ttl of records, a.keep of ended ones, a.replay of
--       events, a.most_events, and of the protocol's times (`Timing`) a.lease, a.trust, a.quiet, a.settle, a.memory,
--       a.grace and a.longest. Times and durations in ms; operation numbers as strings, since JSON in Lua keeps 14 digits and they
--       have 16
--
-- A comment `rule: NAME` marks a line that tests break on purpose (tests/model/test_mutants.py).
--
-- Time is Redis's own, so that replicas need not agree on theirs. `a.now` (us) replaces it under test.

local record, due, epoch_key, targets, events, ends = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local a = cjson.decode(ARGV[1])

local function text(number) return string.format('%.0f', number) end
local function num(value) return tonumber(value or 0) or 0 end

local now_us = a.now
if not now_us then
  local t = redis.call('TIME')
  now_us = t[1] * 1000000 + t[2]
end
local now = math.floor(now_us / 1000)

-- The format of records that these scripts know. What a later format means only its own scripts know. To a leader it is
-- as if another had taken the target over; nothing is read out of such a record and nothing written.
local VERSION = 1

local function newer(r) return num(r.v) > VERSION end

local loaded = {}

-- What runs, or may run, stands before what has ended: any number of ended ones push none of it out of what is shown of a
-- room. More than any moment (ms).
local RUNS = 1e14

local function load()
  local flat, r = redis.call('HGETALL', record), {}
  for i = 1, #flat, 2 do r[flat[i]] = flat[i + 1]; loaded[flat[i]] = flat[i + 1] end
  return r
end

local SHOWN = {
  'v', 'state', 'op', 'generation', 'fingerprint', 'recording', 'evidence', 'because', 'confirmed', 'confirmed_by',
  'started_at', 'ended_at', 'holder', 'action', 'stop_requested_at', 'started_op', 'stops_at', 'timed_stop',
}

-- What readers may see of a record, as JSON; nil where there is no record.
local function shown(key)
  local values, fields = redis.call('HMGET', key, unpack(SHOWN)), {}
  for i, name in ipairs(SHOWN) do fields[name] = values[i] or nil end
  return next(fields) and cjson.encode(fields) or nil
end

-- The same of a record that was loaded.
local function view(r)
  local fields = {}
  for _, name in ipairs(SHOWN) do fields[name] = r[name] end
  return fields
end

-- Readers of the room get the event in the step that makes the change: a later one could be lost in between, or
-- overtaken. The event carries all that may be shown, so that no reader has to look, and find something newer.
local function announce()
  local event = redis.call('XADD', events, 'MAXLEN', '~', a.most_events, '*', 'key', record, 'record', shown(record))
  redis.call('PEXPIRE', events, a.replay)
  redis.call('PUBLISH', events, event)
end

local function is_ended(state) return state == 'stopped' or state == 'failed' end

-- When what is asked for now has to end (ms): after the caller's duration or the setting's, whichever is shorter. 0: never.
local function end_of(duration)
  local longest = num(a.longest)
  if duration == 0 or (longest > 0 and longest < duration) then duration = longest end -- rule: smallest-counts
  return duration > 0 and now + duration or 0
end

-- What has to end is in a set of its own, so that nothing else that is due, and no claim, keeps the reconciler from it.
-- A stop that was led is repeated like any other.
local function schedule_end(state, stops_at)
  if stops_at > 0 and state ~= '' and state ~= 'stopping' and not is_ended(state) then
    redis.call('ZADD', ends, text(stops_at), record) -- rule: schedule-the-end
    if redis.call('PTTL', ends) < a.memory then redis.call('PEXPIRE', ends, text(a.memory * 2)) end
  else
    redis.call('ZREM', ends, record)
  end
end

-- What is empty or 0 is not kept: a field that is not there says the same, and takes no memory.
-- a ttl of 0 leaves the record's own as it is. What is saved quietly is not shown to the room.
local function save(fields, ttl, quietly)
  local kept, dropped, news = {}, {}, false
  for name, value in pairs(fields) do
    value = type(value) == 'number' and text(value) or value
    if value == '' or value == '0' then
      value = nil
      if loaded[name] then dropped[#dropped + 1] = name end
    else
      kept[#kept + 1], kept[#kept + 2] = name, value
    end
    if name == 'state' or name == 'generation' or name == 'evidence' or name == 'stops_at' then
      news = news or value ~= loaded[name]
    end
  end
  if #dropped > 0 then redis.call('HDEL', record, unpack(dropped)) end
  if #kept > 0 then redis.call('HSET', record, unpack(kept)) end
  if ttl > 0 then redis.call('PEXPIRE', record, ttl) end
  local stops_at = num(fields.stops_at or loaded.stops_at)
  if (fields.state or fields.stops_at) and (stops_at > 0 or loaded.stops_at) then
    schedule_end(fields.state or loaded.state or '', stops_at)
  end
  if news and not quietly then
    local state = fields.state or loaded.state or ''
    redis.call('ZADD', targets, text(is_ended(state) and now or now + RUNS), record)
    -- A room that is used for years by ever new participants must not remember them all: for each that comes, up to two
    -- go whose records have gone.
    for _, key in ipairs(redis.call('ZRANGE', targets, 0, 1)) do
      if redis.call('PTTL', key) == -2 then redis.call('ZREM', targets, key) end
    end
    announce()
  end
  local lasts = math.max(a.memory, a.keep) * 2
  if redis.call('PTTL', targets) < lasts / 2 then redis.call('PEXPIRE', targets, text(lasts)) end
end

-- When a reconciler has to look at this target although no caller may come again. 0: never.
local function schedule(at, ttl)
  if at > 0 then
    redis.call('ZADD', due, text(at), record)
    if redis.call('PTTL', due) < ttl then redis.call('PEXPIRE', due, ttl) end
  else
    redis.call('ZREM', due, record)
  end
end

-- Whether a stop was requested of what records, or may land.
local function stop_due(r) return num(r.stop_requested_at) > num(r.started_op) end

local function held(r) return (r.holder or '') ~= '' and num(r.lease) > now end

-- What a claim found: `release.lua` puts it back.
local function found_before(r) return (r.before or '') ~= '' and cjson.decode(r.before) or {} end

-- The moment from which this server's memory can be believed. A server that came up empty has no mark; one that was
-- restarted, or promoted from replica, carries a mark with another run id. Either may have forgotten writes, and
-- because the comparison happens inside the script that decides, no claim can slip in before it is noticed. A mark from
-- the future says that the clock was set back: what it dated cannot be compared with now.
-- age: how far back (ms) a mark is dated that is made where none stood.
local function epoch(age)
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local mark = redis.call('GET', epoch_key)
  local marked_run, since = string.match(mark or '', '^(%w+):(%d+)$')
  if marked_run ~= run or num(since) > now then
    since = text(now - (not mark and age or 0))
    redis.call('SET', epoch_key, run .. ':' .. since)
  end
  redis.call('PEXPIRE', epoch_key, a.memory * 2)
  return num(since)
end

-- Whether the room was never shown the target: no start made it known, and no list or webhook did.
local function is_unheard_of(r)
  return num(r.generation) == 0 and (r.evidence or '') == '' and num(r.suspect_since) == 0
    and not redis.call('ZSCORE', targets, record)
end

-- For how long (ms) it is kept that a target was looked at and never recorded: until the list has had time to show what
-- began a moment ago, and a reconciler to ask for it.
local BRIEFLY = a.settle + 60000

-- Whether what came after the last finish, or claim, may have been forgotten: both count from before the epoch. A
-- finish of an operation that was begun before the epoch counts from then, because others may have come between.
local function predates_epoch(r, since)
  return num(r.written) <= since
    or num(r.epoch) < since -- rule: claimed-before-the-epoch
end

-- Whether another process waits for the operation; who does cannot be known of a record that was forgotten.
local function awaited(r) return r.waiting == '1' or not r.op end

local function wake(r, op, payload)
  if awaited(r) then
    redis.call('PUBLISH', a.channel, record .. '\n' .. op .. '\n' .. payload)
  end
end
