-- What in a pool does not agree with the rest of it. Nothing ever should, unless somebody changed it by hand.

-- Return the faults as texts, and mend them if `mend` is true.
local function check(mend)
  local faults = {}
  local function fault(text, command, ...)
    faults[#faults + 1] = text
    if mend then
      call(command, ...)
    end
  end
  local known = {}
  each(HELD, function(lease, record)
    local holder, channel = match(record, '^([^\n]+)\n%d+\n([^\n]+)$')
    if not holder then
      fault('lease ' .. lease .. ' has no readable record', 'HDEL', HELD, lease)
      return
    end
    known[channel .. '\n' .. lease] = true
    if not call('ZSCORE', SLOTS, channel .. '\n' .. lease) then
      fault('lease ' .. lease .. ' is not counted', 'ZADD', SLOTS, 0, channel .. '\n' .. lease)
    end
    if not call('HGET', PROCS, holder) then
      -- Nobody would ever look at its deadline: its process is dead, from now.
      fault('lease ' .. lease .. ' belongs to nobody', 'HSET', PROCS, holder, '0 ' .. format('%d', now) .. ' unknown')
    end
  end)
  for _, entry in ipairs(call('ZRANGE', SLOTS, 0, -1)) do
    if not known[entry] then
      local channel, lease = match(entry, '^([^\n]*)\n(.*)$')
      fault('a slot of ' .. (channel or '?') .. ' is counted for no lease', 'ZREM', SLOTS, entry)
    end
  end
  local waiting = {}
  each(WAITS, function(waiter, record)
    local ticket, wish = match(record, '^[^\n]+\n(%d+)\n%d+\n([^\n]*)$')
    local entry = (wish or '') .. '\n' .. (ticket or '') .. '\n' .. waiter
    waiting[entry] = true
    if not call('ZSCORE', LINE, entry) then
      fault('waiter ' .. waiter .. ' does not stand in line', 'HDEL', WAITS, waiter)
    end
  end)
  for _, entry in ipairs(call('ZRANGE', LINE, 0, -1)) do
    if not waiting[entry] then
      fault('a place in line belongs to nobody', 'ZREM', LINE, entry)
    end
  end
  each(ACCOUNTS, function(channel, record)
    local order, cap = match(record, '^(%-?%d+) (%d+)$')
    local is_open = tonumber(order) >= 0 and count(channel) < tonumber(cap) and not is_barred(channel)
    local place = tonumber(call('ZSCORE', OPEN, channel) or -1)
    if is_open and place ~= tonumber(order) then
      fault('channel ' .. channel .. ' is open and not listed so', 'ZADD', OPEN, order, channel)
    elseif not is_open and place >= 0 then
      fault('channel ' .. channel .. ' is listed as open and is not', 'ZREM', OPEN, channel)
    end
  end)
  return faults
end
