-- How somebody comes to stand in line.

-- Put the waiter in line, at the end unless it has a ticket from before.
local function join_line(waiter, wish, ticket)
  if not ticket then
    ticket = math.max(now * 1000, tonumber(call('HGET', META, 'ticket') or 0) + 1)
    call('HSET', META, 'ticket', ticket)
    ticket = format('%016.0f', ticket)
  end
  call('ZADD', LINE, 0, wish .. '\n' .. ticket .. '\n' .. waiter)
  call('HSET', WAITS, waiter, process .. '\n' .. ticket .. '\n' .. format('%d', now) .. '\n' .. wish)
  call('PEXPIRE', LINE, KEEP)
  call('PEXPIRE', WAITS, KEEP)
  return ticket
end
