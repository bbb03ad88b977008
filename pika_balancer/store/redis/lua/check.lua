-- Find entries that disagree with each other: there are none unless the pool was edited by hand.
-- include pool.lua
-- include refresh_eligibility.lua

-- Return the faults as texts; with `repair` correct them.
local function check(repair)
  local faults = {}
  local function fault(text, command, ...)
    faults[#faults + 1] = text
    if repair then
      call(command, ...)
    end
  end
  local known = {}
  each(LEASES, function(lease, record)
    local holder, channel = match(record, '^([^\n]+)\n%d+\n([^\n]+)$')
    if not holder then
      fault('lease ' .. lease .. ' has no readable record', 'HDEL', LEASES, lease)
      return
    end
    known[channel .. '\n' .. lease] = true
    if not call('ZSCORE', SLOTS, channel .. '\n' .. lease) then
      fault('lease ' .. lease .. ' is not counted', 'ZADD', SLOTS, 0, channel .. '\n' .. lease)
    end
    if not call('HGET', PROCESSES, holder) then
      -- Without a record of its process the lease would never expire: record the process as dead from now.
      local dead = '0 ' .. format('%d', now) .. ' unknown'
      fault('lease ' .. lease .. ' belongs to no process', 'HSET', PROCESSES, holder, dead)
    end
  end)
  for _, entry in ipairs(call('ZRANGE', SLOTS, 0, -1)) do
    if not known[entry] then
      local channel, lease = match(entry, '^([^\n]*)\n(.*)$')
      fault('a slot of ' .. (channel or '?') .. ' has no lease', 'ZREM', SLOTS, entry)
    end
  end
  local waiting = {}
  each(WAITERS, function(waiter, record)
    local ticket, wanted = match(record, '^[^\n]+\n(%d+)\n%d+\n([^\n]*)$')
    local entry = (wanted or '') .. '\n' .. (ticket or '') .. '\n' .. waiter
    waiting[entry] = true
    if not call('ZSCORE', QUEUE, entry) then
      fault('waiter ' .. waiter .. ' is not in the queue', 'HDEL', WAITERS, waiter)
    end
  end)
  for _, entry in ipairs(call('ZRANGE', QUEUE, 0, -1)) do
    if not waiting[entry] then
      fault('an entry of the queue has no waiter', 'ZREM', QUEUE, entry)
    end
  end
  each(ACCOUNTS, function(channel, record)
    local order, cap = match(record, '^(%-?%d+) (%d+)$')
    local is_open = tonumber(order) >= 0 and count(channel) < tonumber(cap) and not is_held_back(channel)
    local place = tonumber(call('ZSCORE', OPEN, channel) or -1)
    if is_open and place ~= tonumber(order) then
      fault('channel ' .. channel .. ' is open but not listed as open', 'ZADD', OPEN, order, channel)
    elseif not is_open and place >= 0 then
      fault('channel ' .. channel .. ' is listed as open but is not', 'ZREM', OPEN, channel)
    end
  end)
  return faults
end
