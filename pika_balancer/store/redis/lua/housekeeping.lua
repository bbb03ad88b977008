-- Apply what has become due: ends of cooldowns and of learning, deaths of processes.
-- include pool.lua
-- include helpers.lua
-- include enqueue.lua
-- include refresh_eligibility.lua

local function housekeeping()
  if now < due then
    return
  end

  -- Remove waiters of dead processes at once and their leases `orphan_ttl` later; return the next death.
  local function remove_dead_processes()
    local dead, final, found, next_death = {}, {}, false, NEVER
    each(PROCESSES, function(name, record)
      local expiry = tonumber(match(record, '^%d+ (%d+)'))
      if expiry <= now then
        dead[name], found = true, true
        final[name] = expiry + orphan_ttl <= now
        expiry = expiry + orphan_ttl
      end
      if expiry > now then
        next_death = math.min(next_death, expiry)
      end
    end)
    call('ZREMRANGEBYSCORE', ENDED, '-inf', now)
    if not found then
      return next_death
    end
    each(WAITERS, function(waiter, record)
      if dead[match(record, '^[^\n]+')] then
        leave_queue(waiter)
      end
    end)
    local remaining = {}
    each(LEASES, function(lease, record)
      local holder, channel = match(record, '^([^\n]+)\n%d+\n([^\n]+)$')
      if final[holder] then
        free_slot(lease, channel)
        remember_ended(lease, orphan_ttl, true)
      else
        remaining[holder] = true
      end
    end)
    for name in pairs(dead) do
      if not remaining[name] then
        call('HDEL', PROCESSES, name)
      end
    end
    return next_death
  end

  for _, channel in ipairs(call('ZRANGEBYSCORE', COOLDOWNS, '-inf', now)) do
    call('ZREM', COOLDOWNS, channel)
    refresh_eligibility(channel)
  end
  due = remove_dead_processes()
  if learning > 0 and learning <= now then
    learning = 0
    call('HDEL', META, 'learning')
    opened = call('ZRANGE', OPEN, 0, -1)
  end
  local cooldown = tonumber(call('ZRANGE', COOLDOWNS, 0, 0, 'WITHSCORES')[2])
  due = math.min(due, cooldown or NEVER, learning > 0 and learning or NEVER)
  call('HSET', META, 'due', due)
end
