-- Serve the wait queue.
-- include pool.lua
-- include enqueue.lua
-- include pick.lua

-- Serve waiters from the channels in `opened`, in order of arrival among those that can use one.
local function serve()
  if learning > 0 or #opened == 0 or call('ZCARD', QUEUE) == 0 then
    return
  end

  -- Grant a slot to a waiter; return false if its process does not listen.
  local function hand_over(waiter, holder, channel)
    local taken = count(channel) + 1
    if holder == process then
      add(own_grants, waiter, channel, taken)
    else
      local message = waiter .. '\n' .. channel .. '\n' .. taken .. '\n' .. format('%d', now)
      if call(verb, sub(META, 1, -5) .. 'to:' .. holder, message) == 0 then
        return false
      end
    end
    leave_queue(waiter)
    take(waiter, holder, format('%d', now), channel)
    return true
  end

  local from, deaf = {}, {}
  local function first(wanted)
    local start = from[wanted] or '[' .. wanted .. '\n'
    return call('ZRANGEBYLEX', QUEUE, start, '(' .. wanted .. '\11', 'LIMIT', 0, 1)[1]
  end
  while call('ZCARD', OPEN) > 0 do
    local entry, ticket, wanted = first(''), nil, ''
    if entry then
      ticket = sub(entry, 2, 17)
    end
    for _, channel in ipairs(opened) do
      local other = call('ZSCORE', OPEN, channel) and first(channel)
      if other then
        local other_ticket = sub(other, #channel + 2, #channel + 17)
        if not ticket or other_ticket < ticket then
          entry, ticket, wanted = other, other_ticket, channel
        end
      end
    end
    if not entry then
      return
    end
    local waiter = sub(entry, #wanted + 19)
    local holder = match(call('HGET', WAITERS, waiter) or '', '^[^\n]+')
    if not holder then
      call('ZREM', QUEUE, entry)
    elseif deaf[holder] or not hand_over(waiter, holder, pick(wanted)) then
      deaf[holder] = true
      from[wanted] = '(' .. entry
    end
  end
end

-- Serve from every open channel: also the waiters that were passed over because their process did not listen.
local function serve_all()
  if call('ZCARD', QUEUE) > 0 then
    opened = call('ZRANGE', OPEN, 0, -1)
    serve()
  end
end
