-- The rules of the pick, over the open accounts in map order, and the hand-over to the line.

-- The first draw is the caller's own chance; those after it are made from it (Park and Miller, CACM 31, 1988).
local chance, seed
local function draw()
  local drawn = chance or tonumber(ARGV[7])
  seed = (seed or floor(drawn * 2147483646) + 1) * 16807 % 2147483647
  chance = (seed - 1) / 2147483646
  return drawn
end

local function at(index)
  return call('ZRANGE', OPEN, index, index)[1]
end

local PICK = {}

function PICK.random(n)
  return at(floor(draw() * n))
end

function PICK.two_choices(n)
  if n == 1 then
    return at(0)
  end
  local i = floor(draw() * n)
  local j = floor(draw() * (n - 1))
  if j >= i then
    j = j + 1
  end
  local first, second = at(i), at(j)
  return count(second) < count(first) and second or first
end

function PICK.round_robin(n)
  local last, before = unpack(call('HMGET', META, 'last', 'last_order'))
  local channel
  if last then
    local order = read_account(last)
    if not order or order < 0 then
      order = before
    end
    channel = call('ZRANGEBYSCORE', OPEN, '(' .. order, '+inf', 'LIMIT', 0, 1)[1] or at(0)
  else
    channel = at(floor(draw() * n))
  end
  call('HSET', META, 'last', channel, 'last_order', (read_account(channel)))
  return channel
end

function PICK.least_loaded()
  local least, best = NEVER, {}
  for _, channel in ipairs(call('ZRANGE', OPEN, 0, -1)) do
    local taken = count(channel)
    if taken < least then
      least, best = taken, {}
    end
    if taken == least then
      best[#best + 1] = channel
    end
  end
  return best[floor(draw() * #best) + 1]
end

function PICK.weighted()
  local channels, totals, total = call('ZRANGE', OPEN, 0, -1), {}, 0
  for i, channel in ipairs(channels) do
    local _, cap = read_account(channel)
    total = total + cap - count(channel)
    totals[i] = total
  end
  local drawn = draw() * total
  for i, channel in ipairs(channels) do
    if drawn < totals[i] then
      return channel
    end
  end
end

-- Return a channel that can take a job for the wish, or nil.
local function pick(wish)
  if learning > 0 then
    return nil
  elseif wish ~= '' then
    return call('ZSCORE', OPEN, wish) and wish
  end
  local n = call('ZCARD', OPEN)
  return n > 0 and PICK[policy](n) or nil
end

-- Hand over a slot to a waiter; return false if its process does not listen.
local function hand_over(waiter, holder, channel)
  local taken = count(channel) + 1
  if holder == process then
    own[#own + 1], own[#own + 2], own[#own + 3] = waiter, channel, taken
  else
    local news = waiter .. '\n' .. channel .. '\n' .. taken .. '\n' .. format('%.0f', now)
    if call(verb, sub(META, 1, -5) .. 'to:' .. holder, news) == 0 then
      return false
    end
  end
  leave_line(waiter)
  take(waiter, holder, format('%.0f', now), channel)
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

-- Put the waiter in line, at the end unless it has a ticket from before.
local function join_line(waiter, wish, ticket)
  if not ticket then
    ticket = math.max(now * 1000, tonumber(call('HGET', META, 'ticket') or 0) + 1)
    call('HSET', META, 'ticket', ticket)
    ticket = format('%016.0f', ticket)
  end
  call('ZADD', LINE, 0, wish .. '\n' .. ticket .. '\n' .. waiter)
  call('HSET', WAITS, waiter, process .. '\n' .. ticket .. '\n' .. format('%.0f', now) .. '\n' .. wish)
  call('PEXPIRE', LINE, KEEP)
  call('PEXPIRE', WAITS, KEEP)
  return ticket
end

-- Tell the other processes that the accounts have changed.
local function publish_news()
  call(verb, sub(META, 1, -5) .. 'news', process)
end
