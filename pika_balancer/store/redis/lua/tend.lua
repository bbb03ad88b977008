-- What time has brought: ends of rests and of learning, and deaths.
if now >= due then
  -- include settle.lua
  -- include rarely.lua
  -- include each.lua

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
