-- The rules of the pick but for `random`, over the open accounts in map order.

local PICK = {}

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
