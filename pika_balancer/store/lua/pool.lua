-- The pool as every operation finds it: its keys, the moment, what time has brought, and the way in and out.
--
-- KEYS (the same for every operation):
--   meta accounts rests open slots held line waits procs gone
--
--   meta      hash   due, version, learning, size, ticket, last, born: see `enter`
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

local function clock()
  if ARGV[1] ~= '' then
    return tonumber(ARGV[1])
  end
  local time = call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

local now = clock()
local process, seq, ttl, orphan_ttl = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local policy, verb = ARGV[6], ARGV[8]
local due, version, learning, size = 0, '0', 0, 0
local opened = {} -- channels that have become open in this call, or whose waiters are to be looked at again
local own = {} -- what was granted to the caller's own waiters: lease, channel, count, and again

local function read_meta()
  local meta = call('HMGET', META, 'due', 'version', 'learning', 'size')
  due, version = tonumber(meta[1] or 0), meta[2] or '0'
  learning, size = tonumber(meta[3] or 0), tonumber(meta[4] or 0)
end

-- See to it that `tend` looks at the pool at that moment, or before.
local function look_by(moment)
  if moment < due then
    due = moment
    call('HSET', META, 'due', due)
  end
end

local function count(channel)
  return call('ZLEXCOUNT', SLOTS, '[' .. channel .. '\n', '(' .. channel .. '\11')
end

local function read_account(channel)
  local order, cap = match(call('HGET', ACCOUNTS, channel) or '', '^(%-?%d+) (%d+)$')
  return tonumber(order), tonumber(cap)
end

local function is_barred(channel)
  return call('ZSCORE', RESTS, channel) or call('ZSCORE', RESTS, '\n' .. channel)
end

-- Put the channel among the open ones or take it out, as all else says: the one test of eligibility.
local function settle(channel)
  local order, cap = read_account(channel)
  if not order then
    return
  end
  local taken, barred = count(channel), is_barred(channel)
  if order >= 0 and taken < cap and not barred then
    if call('ZADD', OPEN, order, channel) == 1 then
      opened[#opened + 1] = channel
      call('PEXPIRE', OPEN, KEEP)
    end
    return
  end
  call('ZREM', OPEN, channel)
  if order < 0 and taken == 0 and not barred then
    call('HDEL', ACCOUNTS, channel)
  end
end

-- Count a lease on the channel; return how many there are then.
local function take(lease, holder, since, channel)
  call('ZADD', SLOTS, 0, channel .. '\n' .. lease)
  call('HSET', HELD, lease, holder .. '\n' .. since .. '\n' .. channel)
  local taken = count(channel)
  if taken == 1 then
    call('PEXPIRE', SLOTS, KEEP)
    call('PEXPIRE', HELD, KEEP)
  end
  local _, cap = read_account(channel)
  if not cap then
    -- Nobody has configured it; as an account without a stated cap it would have this one.
    call('HSET', ACCOUNTS, channel, '-1 10')
    call('PEXPIRE', ACCOUNTS, KEEP)
  elseif taken >= cap then
    call('ZREM', OPEN, channel)
  end
  return taken
end

local function read_lease(lease)
  return match(call('HGET', HELD, lease) or '', '^([^\n]+)\n(%d+)\n([^\n]+)$')
end

local function is_alive(name)
  return tonumber(match(call('HGET', PROCS, name) or '0 0', '^%d+ (%d+)')) > now
end

-- Count the lease no longer.
local function drop(lease, channel)
  call('HDEL', HELD, lease)
  call('ZREM', SLOTS, channel .. '\n' .. lease)
  settle(channel)
end

-- Remember for a while that the lease is over, and whether it was taken away from its holder.
local function remember(lease, span, taken_away)
  call('ZADD', GONE, now + span, lease)
  if taken_away then
    call('ZADD', GONE, now + span, '\n' .. lease)
  end
  call('PEXPIRE', GONE, KEEP)
end

local function leave_line(waiter)
  local ticket, wish = match(call('HGET', WAITS, waiter) or '', '^[^\n]+\n(%d+)\n%d+\n([^\n]*)$')
  if ticket then
    call('HDEL', WAITS, waiter)
    call('ZREM', LINE, wish .. '\n' .. ticket .. '\n' .. waiter)
  end
end

-- Call `tell(field, value)` for each field of the hash.
local function each(hash, tell)
  local all = call('HGETALL', hash)
  for i = 1, #all, 2 do
    tell(all[i], all[i + 1])
  end
end

-- End the waits of dead processes at once, and their leases once they have been orphans for long enough.
local function bury()
  local dead, final, found, next_look = {}, {}, false, NEVER
  each(PROCS, function(name, record)
    local expiry = tonumber(match(record, '^%d+ (%d+)'))
    if expiry <= now then
      dead[name], found = true, true
      final[name] = expiry + orphan_ttl <= now
      expiry = expiry + orphan_ttl
    end
    if expiry > now then
      next_look = math.min(next_look, expiry)
    end
  end)
  call('ZREMRANGEBYSCORE', GONE, '-inf', now)
  if not found then
    return next_look
  end
  each(WAITS, function(waiter, record)
    if dead[match(record, '^[^\n]+')] then
      leave_line(waiter)
    end
  end)
  local remaining = {}
  each(HELD, function(lease, record)
    local holder, channel = match(record, '^([^\n]+)\n%d+\n([^\n]+)$')
    if final[holder] then
      drop(lease, channel)
      remember(lease, orphan_ttl, true)
    else
      remaining[holder] = true
    end
  end)
  for name in pairs(dead) do
    if not remaining[name] then
      call('HDEL', PROCS, name)
    end
  end
  return next_look
end

-- Do what time has brought: ends of rests and of learning, and deaths.
local function tend()
  if now < due then
    return
  end
  for _, channel in ipairs(call('ZRANGEBYSCORE', RESTS, '-inf', now)) do
    call('ZREM', RESTS, channel)
    settle(channel)
  end
  due = bury()
  if learning > 0 and learning <= now then
    learning = 0
    call('HDEL', META, 'learning')
    opened = call('ZRANGE', OPEN, 0, -1)
  end
  local rest = tonumber(call('ZRANGE', RESTS, 0, 0, 'WITHSCORES')[2])
  due = math.min(due, rest or NEVER, learning > 0 and learning or NEVER)
  call('HSET', META, 'due', due)
end

-- Begin a call. Returns nil, or why it is refused: '?' for a process that is not known (any more), '<' for a
-- call that came too late.
local function enter()
  local last, label = match(call('HGET', PROCS, process) or '', '^(%d+) %d+ (.*)$')
  if not last then
    return '?'
  elseif tonumber(seq) < tonumber(last) then
    return '<'
  end
  call('HSET', PROCS, process, seq .. ' ' .. format('%.0f', now + ttl) .. ' ' .. label)
  read_meta()
  tend()
end

local function add(list, ...)
  for i = 1, select('#', ...) do
    list[#list + 1] = select(i, ...)
  end
end

-- List what each account looks like: channel, order, cap, count, paused, end of its rest.
local function survey(list)
  each(ACCOUNTS, function(channel, record)
    local order, cap = match(record, '^(%-?%d+) (%d+)$')
    local paused = call('ZSCORE', RESTS, '\n' .. channel) and 1 or 0
    add(list, channel, order, cap, count(channel), paused, call('ZSCORE', RESTS, channel) or '')
  end)
end

-- Return the answer as one text: how many own grants, these, the moment, the version of the map, the end of
-- learning, when to look again, and the items of the operation.
local function answer(items)
  local list = { #own / 3 }
  for i = 1, #own do
    list[#list + 1] = own[i]
  end
  add(list, now, version, format('%.0f', learning), format('%.0f', due))
  for i = 1, #items do
    list[#list + 1] = items[i]
  end
  return table.concat(list, '\n')
end
