-- The pool at the start of every operation: its keys, the time, how to read it, and how to reply.
--
-- KEYS (the same for every operation):
--   meta accounts cooldowns open slots leases queue waiters processes ended
--
--   meta       hash   due, version, learning, size, ticket, last, last_order, born
--   accounts   hash   channel -> "order cap"; order is -1 once the channel is removed from the account map
--   cooldowns  zset   channel -> end of its cooldown; "\n" channel -> inf while it is paused
--   open       zset   channel -> order: accounts that can take a job; an index derived from the other keys
--   slots      zset   channel "\n" lease, all at score 0: the in-flight counts, read as lexical ranges
--   leases     hash   lease -> process "\n" since "\n" channel
--   queue      zset   wanted "\n" ticket "\n" waiter, all at score 0; wanted is a channel, or empty for any
--   waiters    hash   waiter -> process "\n" ticket "\n" since "\n" wanted
--   processes  hash   process -> "seq expiry label"
--   ended      zset   lease -> until when to remember that it ended; "\n" lease too if its holder lost it
--
-- ARGV (the first of every operation):
--   now process seq ttl orphan_ttl policy u verb
--
--   now         milliseconds in place of the server's TIME, for tests; empty for TIME
--   process     the caller
--   seq         number of the call; a call is refused if a later call of the process arrived before it
--   ttl         milliseconds after a call until the process counts as dead
--   orphan_ttl  milliseconds after its death until its leases are dropped
--   policy      rule of the pick
--   u           random number in [0, 1)
--   verb        PUBLISH, or SPUBLISH in a cluster
--
-- Times are milliseconds of the server's clock. Numbers go straight to redis.call: a number joined by `..`
-- keeps 14 digits only.

local META, ACCOUNTS, COOLDOWNS, OPEN, SLOTS, LEASES, QUEUE, WAITERS, PROCESSES, ENDED = unpack(KEYS)
local call, format, match, sub, floor = redis.call, string.format, string.match, string.sub, math.floor

local KEEP = 7 * 24 * 3600 * 1000 -- an unused pool expires after seven days
local NEVER = 2 ^ 53

local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end
local process, seq, ttl, orphan_ttl = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local policy, u, verb = ARGV[6], tonumber(ARGV[7]), ARGV[8]
local meta = call('HMGET', META, 'due', 'version', 'learning', 'size')
local due, version = tonumber(meta[1] or 0), meta[2] or '0'
local learning, size = tonumber(meta[3] or 0), tonumber(meta[4] or 0)
local counts = {} -- cache of `count`; every change of a count updates it
local opened = {} -- channels that became open in this call: their waiters may be served
local own_grants = {} -- grants to waiters of the caller: lease, channel, count, and again

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
  return match(call('HGET', LEASES, lease) or '', '^([^\n]+)\n(%d+)\n([^\n]+)$')
end

-- Call `visit(field, value)` for each field of the hash.
local function each(hash, visit)
  local all = call('HGETALL', hash)
  for i = 1, #all, 2 do
    visit(all[i], all[i + 1])
  end
end

local function add(list, ...)
  for i = 1, select('#', ...) do
    list[#list + 1] = select(i, ...)
  end
end

-- Return one text: number of own grants, these, now, version of the account map, end of learning, when the
-- next housekeeping is due, and the items of the operation.
local function reply(items)
  local list = { #own_grants / 3 }
  for i = 1, #own_grants do
    list[#list + 1] = own_grants[i]
  end
  add(list, now, version, format('%d', learning), format('%d', due))
  for i = 1, #items do
    list[#list + 1] = items[i]
  end
  return table.concat(list, '\n')
end
