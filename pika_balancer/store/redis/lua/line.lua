-- The hand-over to the line. Goes with `pick.lua`.
-- include rarely.lua

-- Hand over a slot to a waiter; return false if its process does not listen.
local function hand_over(waiter, holder, channel)
  local taken = count(channel) + 1
  if holder == process then
    own[#own + 1], own[#own + 2], own[#own + 3] = waiter, channel, taken
  else
    local news = waiter .. '\n' .. channel .. '\n' .. taken .. '\n' .. format('%d', now)
    if call(verb, sub(META, 1, -5) .. 'to:' .. holder, news) == 0 then
      return false
    end
  end
  leave_line(waiter)
  take(waiter, holder, format('%d', now), channel)
  return true
end

-- Serve the line with the channels that were opened: first come, first served among those who can use one.
local function serve()
  if learning > 0 or #opened == 0 or call('ZCARD', LINE) == 0 then
    return
  end
  local from, deaf = {}, {}
  local function first(wish)
    return call('ZRANGEBYLEX', LINE, from[wish] or '[' .. wish .. '\n', '(' .. wish .. '\11', 'LIMIT', 0, 1)[1]
  end
  while call('ZCARD', OPEN) > 0 do
    local entry, ticket, wish = first(''), nil, ''
    if entry then
      ticket = sub(entry, 2, 17)
    end
    for _, channel in ipairs(opened) do
      local other = call('ZSCORE', OPEN, channel) and first(channel)
      if other then
        local its = sub(other, #channel + 2, #channel + 17)
        if not ticket or its < ticket then
          entry, ticket, wish = other, its, channel
        end
      end
    end
    if not entry then
      return
    end
    local waiter = sub(entry, #wish + 19)
    local holder = match(call('HGET', WAITS, waiter) or '', '^[^\n]+')
    if not holder then
      call('ZREM', LINE, entry)
    elseif deaf[holder] or not hand_over(waiter, holder, pick(wish)) then
      deaf[holder] = true
      from[wish] = '(' .. entry
    end
  end
end

-- Serve everybody who could be: those included who were passed because their process did not listen.
local function serve_all()
  if call('ZCARD', LINE) > 0 then
    opened = call('ZRANGE', OPEN, 0, -1)
    serve()
  end
end
