"""The Lua of RedisStore: each script is one atomic step, and touches keys of one slot only, all of them in KEYS.

Must not know Python's side of it: keys and arguments are documented at each script. Times are the server's.

A run's meta is a hash: agent, owner, queue, job; creator (who entered it); status; epoch (the newest), writer (the one
that may append; empty while nobody holds the run), epochs (`epoch:first_seq,...`); first, last (seqs); born, updated,
ended (microseconds); worker, lease (milliseconds; 0 is none), tries (deliveries), cmds (number of the last command).
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

__all__ = ["ALL", "APPEND", "CLAIM", "CREATE", "DELETE", "ENTER", "JOB", "RECORD", "RELEASE", "RENEW", "SEND"]
__all__ += ["TAKE", "TRIM", "Script"]

RECORD: Final = (
    *("agent", "status", "epochs", "first", "last", "born", "updated", "ended"),
    *("owner", "queue", "worker", "tries"),
)
"""Fields of meta that make a RunRecord, in the order in which scripts give them; `job` comes after them."""


class Script:
    """A script and the name that servers know it by."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


_TIME = """
local t = redis.call('TIME')
local us = t[1] .. string.format('%06d', t[2])
local ms = t[1] * 1000 + math.floor(t[2] / 1000)
local function int(n) return string.format('%.0f', n) end
"""

_EPOCH_AT = """
local function epoch_at(epochs, seq)
  local found = '0'
  for e, f in string.gmatch(epochs, '(%d+):(%d+)') do
    if tonumber(f) <= seq then found = e end
  end
  return found
end
"""

CREATE = Script(
    _TIME
    + """
-- KEYS: meta. ARGV: agent, owner, queue, worker, lease in ms, time to live in ms, job, whether there is a job.
-- Gives the epoch (0 if queued), or nil if there is another run of that id.
local agent, owner, queue, worker, job = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[7]
local old = redis.call('HMGET', KEYS[1], 'creator', 'agent', 'owner', 'queue', 'job', 'last', 'ended', 'worker',
  'epoch')
if old[1] then
  local same = old[1] == worker and old[2] == agent and old[3] == owner and old[4] == queue
    and (old[5] or '') == job and old[6] == '0' and old[7] == ''
  if not same then return nil end
  if worker == '' then return '0' end
  if old[8] ~= worker then return nil end
  redis.call('HSET', KEYS[1], 'lease', int(ms + ARGV[5]))
  return old[9]
end
local epoch, epochs, status, lease, tries = '0', '', 'queued', '0', 0
if worker ~= '' then
  epoch = int(ms)
  epochs, status, lease, tries = epoch .. ':1', 'running', int(ms + ARGV[5]), 1
end
redis.call('HSET', KEYS[1], 'creator', worker, 'agent', agent, 'owner', owner, 'queue', queue, 'status', status,
  'epoch', epoch, 'writer', worker ~= '' and epoch or '', 'epochs', epochs, 'first', 1, 'last', 0, 'born', us,
  'updated', us, 'ended', '', 'worker', worker, 'lease', lease, 'tries', tries, 'cmds', 0)
if ARGV[8] == '1' then redis.call('HSET', KEYS[1], 'job', job) end
if ARGV[6] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
return epoch
"""
)

CLAIM = Script(
    _TIME
    + f"""
-- KEYS: meta, log, commands. ARGV: worker, lease in ms, time to live in ms, queue and agent if they have to be these.
-- Gives ['gone'], ['ended'], ['other'], ['held', ms that are left], or ['claimed', record..., job].
local m = redis.call('HMGET', KEYS[1], 'epoch', 'epochs', 'last', 'ended', 'lease', 'worker', 'status', 'queue',
  'agent')
if not m[1] then return {{'gone'}} end
if m[4] ~= '' then return {{'ended'}} end
if ARGV[4] then
  -- Taken from a queue: it has to be of that queue, and one that any worker can begin.
  local begun = m[7] ~= 'queued' or redis.call('HEXISTS', KEYS[1], 'job') == 1
  if ARGV[4] ~= m[8] or ARGV[5] ~= m[9] or not begun then return {{'other'}} end
end
if tonumber(m[5]) > ms and m[6] ~= ARGV[1] then return {{'held', int(m[5] - ms)}} end
local epoch = int(math.max(m[1] + 1, ms))
local epochs = (m[2] == '' and '' or m[2] .. ',') .. epoch .. ':' .. int(m[3] + 1)
redis.call('HSET', KEYS[1], 'epoch', epoch, 'writer', epoch, 'epochs', epochs, 'worker', ARGV[1],
  'status', m[7] == 'queued' and 'running' or m[7], 'lease', int(ms + ARGV[2]), 'updated', us)
redis.call('HINCRBY', KEYS[1], 'tries', 1)
if ARGV[3] ~= '0' then
  for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
end
local record = redis.call('HMGET', KEYS[1], '{"', '".join(RECORD)}', 'job')
table.insert(record, 1, 'claimed')
return record
"""
)

RELEASE = Script(
    _TIME
    + """
-- KEYS: meta. ARGV: epoch. Gives [queue, agent, whether it has a job], or nil if it was not held.
local m = redis.call('HMGET', KEYS[1], 'writer', 'ended', 'queue', 'agent', 'status')
if m[1] ~= ARGV[1] or m[2] ~= '' then return nil end
redis.call('HSET', KEYS[1], 'writer', '', 'status', m[5] == 'waiting' and m[5] or 'queued', 'lease', 0, 'updated', us)
redis.call('HINCRBY', KEYS[1], 'tries', -1)
return {m[3], m[4], redis.call('HEXISTS', KEYS[1], 'job')}
"""
)

RENEW = Script(
    _TIME
    + """
-- KEYS: meta, log, commands of each run. ARGV: lease in ms, time to live in ms, epoch of each run.
-- Gives for each [whether it is held, number of the last command, when the lease runs out].
local answers = {}
for i = 1, #KEYS, 3 do
  local m = redis.call('HMGET', KEYS[i], 'writer', 'ended', 'cmds')
  local held = m[1] == ARGV[2 + (i + 2) / 3] and m[2] == ''
  if held then
    redis.call('HSET', KEYS[i], 'lease', int(ms + ARGV[1]))
    if ARGV[2] ~= '0' then
      for j = i, i + 2 do redis.call('PEXPIRE', KEYS[j], ARGV[2]) end
    end
  end
  answers[#answers + 1] = {held and 1 or 0, tonumber(m[3] or '0'), int(ms + ARGV[1])}
end
return answers
"""
)

APPEND = Script(
    _TIME
    + _EPOCH_AT
    + """
-- KEYS: meta, log of each run. ARGV: time to live in ms, the same after the end, most segments (0: all); then of each
-- run epoch, first seq, last seq, status ('' is none, '!' before it an end), body.
-- Gives for each 0, or its refusal's number: 1 fenced, 2 sealed, 3 gone, 4 gap; after an end [0, queue, agent].
local function refusal(meta, m, epoch, first, last)
  if not m[1] then return 3 end
  local f, l = tonumber(first), tonumber(last)
  if l <= tonumber(m[2]) and f <= l then
    -- Its reply was lost: it is there if this epoch wrote those seqs. Something is written all the same, so that WAIT
    -- on this connection waits for what was written on another.
    local epochs = redis.call('HGET', meta, 'epochs')
    if epoch_at(epochs, f) == epoch and epoch_at(epochs, l) == epoch then
      redis.call('HSET', meta, 'updated', us)
      return 0
    end
  end
  if redis.call('HGET', meta, 'epoch') ~= epoch then return 1 end
  if m[3] ~= '' then return 2 end
  if m[1] ~= epoch then return 1 end
  return 4
end

local answers = {}
local a = 4
for i = 1, #KEYS, 2 do
  local meta, log = KEYS[i], KEYS[i + 1]
  local epoch, first, last, status = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  local m = redis.call('HMGET', meta, 'writer', 'last', 'ended')
  local ends = string.sub(status, 1, 1) == '!'
  local answer = 0
  if m[1] ~= epoch or m[3] ~= '' or tonumber(first) ~= m[2] + 1 or tonumber(last) < tonumber(first) then
    answer = refusal(meta, m, epoch, first, last)
  else
    local id, added = epoch .. '-' .. last, nil
    if m[2] == '0' then
      added = redis.call('XADD', log, id, 'f', first, 'b', ARGV[a + 4], unpack(ends and {'e', '1'} or {}))
    elseif ends then
      added = redis.call('XADD', log, 'NOMKSTREAM', id, 'f', first, 'b', ARGV[a + 4], 'e', '1')
    else
      added = redis.call('XADD', log, 'NOMKSTREAM', id, 'f', first, 'b', ARGV[a + 4])
    end
    if not added then
      answer = 3
    else
      if ends then
        redis.call('HSET', meta, 'last', last, 'updated', us, 'status', string.sub(status, 2), 'ended', us, 'lease', 0)
      elseif status ~= '' then
        redis.call('HSET', meta, 'last', last, 'updated', us, 'status', status)
      else
        redis.call('HSET', meta, 'last', last, 'updated', us)
      end
      local ttl = ends and ARGV[2] or m[2] == '0' and ARGV[1] or ''
      if ends and ttl == '0' then
        redis.call('PERSIST', meta)
        redis.call('PERSIST', log)
      elseif ttl ~= '' and ttl ~= '0' then
        redis.call('PEXPIRE', meta, ttl)
        redis.call('PEXPIRE', log, ttl)
      end
      if ARGV[3] ~= '0' and redis.call('XLEN', log) > tonumber(ARGV[3]) then
        if redis.call('XTRIM', log, 'MAXLEN', '~', ARGV[3]) > 0 then
          redis.call('HSET', meta, 'first', redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1][2][2])
        end
      end
    end
  end
  if ends and answer == 0 then
    local job = redis.call('HMGET', meta, 'queue', 'agent')
    answer = {0, job[1], job[2]}
  end
  answers[#answers + 1] = answer
  a = a + 5
end
return answers
"""
)

TRIM = Script(
    _EPOCH_AT
    + """
-- KEYS: meta, log. ARGV: the seq before which segments go. Gives the oldest seq that is kept, or nil.
local m = redis.call('HMGET', KEYS[1], 'last', 'first', 'epochs')
if not m[1] then return nil end
local before = math.min(tonumber(ARGV[1]), m[1] + 1)
if before <= tonumber(m[2]) then return tonumber(m[2]) end
redis.call('XTRIM', KEYS[2], 'MINID', '=', epoch_at(m[3], before) .. '-' .. string.format('%.0f', before))
local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
local first = oldest[1] and oldest[1][2][2] or string.format('%.0f', m[1] + 1)
redis.call('HSET', KEYS[1], 'first', first)
return tonumber(first)
"""
)

SEND = Script(
    """
-- KEYS: meta, commands. ARGV: kind, data. Gives the command's number, 0 if the run has ended, or nil.
local ended = redis.call('HGET', KEYS[1], 'ended')
if not ended then return nil end
if ended ~= '' then return 0 end
local number = redis.call('HINCRBY', KEYS[1], 'cmds', 1)
redis.call('XADD', KEYS[2], number .. '-0', 'k', ARGV[1], 'd', ARGV[2])
local ttl = redis.call('PTTL', KEYS[1])
if ttl > 0 then redis.call('PEXPIRE', KEYS[2], ttl) end
return number
"""
)

DELETE = Script(
    """
-- KEYS: meta, log, commands. ARGV: none, or a field of meta and what it has to be. Gives [owner, queue, agent], or nil.
local m = redis.call('HMGET', KEYS[1], 'owner', 'queue', 'agent')
if not m[1] or (ARGV[1] and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2]) then return nil end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return {m[1], m[2], m[3]}
"""
)

# Jobs of one queue and agent: `ready` (sorted by the time at which the run was entered), `held` (sorted by the time at
# which somebody has to look at it: its lease runs out), `born` (when each was entered), `wake` (a list with one token
# that wakes one waiting worker). The run's own meta says who holds it; these only say where to look.
_WAKE = """
local function wake(key)
  if redis.call('LLEN', key) == 0 then redis.call('LPUSH', key, 1) end
  redis.call('PEXPIRE', key, 60000)
end
"""

ENTER = Script(
    _TIME
    + """
-- KEYS: a sorted set of runs. ARGV: run. Enters it with the time, unless it is there.
return redis.call('ZADD', KEYS[1], 'NX', us, ARGV[1])
"""
)

JOB = Script(
    _TIME
    + _WAKE
    + """
-- KEYS: ready, held, born, wake. ARGV: what, run, milliseconds.
-- 'held': look at it after so long. 'found': the same, unless it is here. 'ready': at once. 'done': never again.
local what, run = ARGV[1], ARGV[2]
if what == 'done' then
  redis.call('ZREM', KEYS[1], run)
  redis.call('ZREM', KEYS[2], run)
  redis.call('HDEL', KEYS[3], run)
  return 0
end
if what == 'found' then
  if redis.call('ZSCORE', KEYS[1], run) or redis.call('ZSCORE', KEYS[2], run) then return 0 end
  what = 'held'
end
redis.call('HSETNX', KEYS[3], run, us)
if what == 'held' then
  redis.call('ZREM', KEYS[1], run)
  redis.call('ZADD', KEYS[2], int(ms + ARGV[3]), run)
else
  redis.call('ZREM', KEYS[2], run)
  redis.call('ZADD', KEYS[1], redis.call('HGET', KEYS[3], run), run)
  wake(KEYS[4])
end
return 0
"""
)

TAKE = Script(
    _TIME
    + _WAKE
    + """
-- KEYS: ready, held, born, wake of each agent. ARGV: lease in ms.
-- Gives [number of the agent, run] and hides the run for a lease, or [0, ms until there is something to look at or -1].
local best, best_score, next_due = 0, 0, -1
local run
for i = 1, #KEYS, 4 do
  for _, due in ipairs(redis.call('ZRANGEBYSCORE', KEYS[i + 1], '-inf', int(ms), 'LIMIT', 0, 100)) do
    redis.call('ZREM', KEYS[i + 1], due)
    redis.call('ZADD', KEYS[i], redis.call('HGET', KEYS[i + 2], due) or us, due)
  end
  local head = redis.call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
  if head[1] and (best == 0 or tonumber(head[2]) < best_score) then
    best, best_score, run = i, tonumber(head[2]), head[1]
  end
  local later = redis.call('ZRANGE', KEYS[i + 1], 0, 0, 'WITHSCORES')
  if later[1] and (next_due < 0 or later[2] - ms < next_due) then next_due = later[2] - ms end
end
if best == 0 then return {0, next_due} end
redis.call('ZREM', KEYS[best], run)
redis.call('ZADD', KEYS[best + 1], int(ms + ARGV[1]), run)
if redis.call('ZCARD', KEYS[best]) > 0 then wake(KEYS[best + 3]) end
return {(best + 3) / 4, run}
"""
)

ALL: Final = (APPEND, CLAIM, CREATE, DELETE, ENTER, JOB, RELEASE, RENEW, SEND, TAKE, TRIM)
