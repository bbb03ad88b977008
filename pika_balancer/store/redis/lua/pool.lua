-- The pool as every operation finds it: its keys, the moment, how to read it, and how to answer.
--
-- To make a function costs as much as some commands do. So whatever few calls need is a text of its own, which is
-- put where it is needed, inside of the branch that needs it.
--
-- KEYS (the same for every operation):
--   meta accounts rests open slots held line waits procs gone
--
--   meta      hash   due, version, learning, size, ticket, last, born
--   accounts  hash   channel -> "order cap"; order -1 once it is gone from the map
--   rests     zset   channel -> end of its rest; "\n" channel -> inf while it is paused
--   open      zset   channel -> order: who could take a job. An index that `settle` makes from the others
--   slots     zset   channel "\n" lease, all at score 0: the truth, counted as a range of texts
--   held      hash   lease -> process "\n" since "\n" channel
--   line      zset   wish "\n" ticket "\n" waiter, all at score 0; the wish is empty for any channel
--   waits     hash   waiter -> process "\n" ticket "\n" since "\n" wish
--   procs     hash   process -> "seq expiry label"
--   gone      zset   lease -> until when it is remembered that it is over; "\n" lease as well if it was taken away
--
-- ARGV (the first of every operation):
--   now process seq ttl orphan_ttl policy u verb
--
--   now         milliseconds in place of the server's TIME, for tests; empty for TIME
--   process     who calls
--   seq         number of the call; one that a later call of the process has overtaken is refused
--   ttl         milliseconds for which a process is alive after a call
--   orphan_ttl  milliseconds for which its leases are counted after that
--   policy      rule of the pick
--   u           chance, in [0, 1)
--   verb        PUBLISH, or SPUBLISH in a cluster
--
-- Moments are milliseconds of the server's clock. Numbers go straight to redis.call: in a text made by `..`
-- all digits after the 14th are lost.

local META, ACCOUNTS, RESTS, OPEN, SLOTS, HELD, LINE, WAITS, PROCS, GONE = unpack(KEYS)
local call, format, match, sub, floor = redis.call, string.format, string.match, string.sub, math.floor

local KEEP = 7 * 24 * 3600 * 1000 -- the life of a pool of which nobody hears anything more
local NEVER = 2 ^ 53

local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end
local process, seq, ttl, orphan_ttl = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local policy, verb = ARGV[6], ARGV[8]
local meta = call('HMGET', META, 'due', 'version', 'learning', 'size')
local due, version = tonumber(meta[1] or 0), meta[2] or '0'
local learning, size = tonumber(meta[3] or 0), tonumber(meta[4] or 0)
local counts = {} -- what `count` has found, kept right by all that changes it
local opened = {} -- channels that have become open in this call, or whose waiters are to be looked at again
local own = {} -- what was granted to the caller's own waiters: lease, channel, count, and again

local function count(channel)
  local taken = counts[channel]
  if not taken then
    taken = call('ZLEXCOUNT', SLOTS, '[' .. channel .. '\n', '(' .. channel .. '\11')
    counts[channel] = taken
  end
  return taken
end

local function read_account(channel)
  local order, cap = match(call('HGET', ACCOUNTS, channel) or '', '^(%-?%d+) (%d+)$')
  return tonumber(order), tonumber(cap)
end

local function read_lease(lease)
  return match(call('HGET', HELD, lease) or '', '^([^\n]+)\n(%d+)\n([^\n]+)$')
end

local function add(list, ...)
  for i = 1, select('#', ...) do
    list[#list + 1] = select(i, ...)
  end
end

-- Return the answer as one text: how many own grants, these, the moment, the version of the map, the end of
-- learning, when to look again, and the items of the operation.
local function answer(items)
  local list = { #own / 3 }
  for i = 1, #own do
    list[#list + 1] = own[i]
  end
  add(list, now, version, format('%d', learning), format('%d', due))
  for i = 1, #items do
    list[#list + 1] = items[i]
  end
  return table.concat(list, '\n')
end
