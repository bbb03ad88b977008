-- Add a waiter to the wait queue, or remove it.
-- include pool.lua

-- Queue the waiter, at the end unless it has a ticket from before; return its ticket.
local function enqueue(waiter, wanted, ticket)
  if not ticket then
    ticket = math.max(now * 1000, tonumber(call('HGET', META, 'ticket') or 0) + 1)
    call('HSET', META, 'ticket', ticket)
    ticket = format('%016.0f', ticket)
  end
  call('ZADD', QUEUE, 0, wanted .. '\n' .. ticket .. '\n' .. waiter)
  call('HSET', WAITERS, waiter, process .. '\n' .. ticket .. '\n' .. format('%d', now) .. '\n' .. wanted)
  call('PEXPIRE', QUEUE, KEEP)
  call('PEXPIRE', WAITERS, KEEP)
  return ticket
end

local function leave_queue(waiter)
  local ticket, wanted = match(call('HGET', WAITERS, waiter) or '', '^[^\n]+\n(%d+)\n%d+\n([^\n]*)$')
  if ticket then
    call('HDEL', WAITERS, waiter)
    call('ZREM', QUEUE, wanted .. '\n' .. ticket .. '\n' .. waiter)
  end
end
