-- Small steps that few calls need.

-- See to it that `tend` looks at the pool at that moment, or before.
local function look_by(moment)
  if moment < due then
    due = moment
    call('HSET', META, 'due', due)
  end
end

local function is_alive(name)
  return tonumber(match(call('HGET', PROCS, name) or '0 0', '^%d+ (%d+)')) > now
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
