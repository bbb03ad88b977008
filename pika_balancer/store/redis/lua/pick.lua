-- Pick an open channel by the policy, and take its slot.
-- include pool.lua

-- The first draw is the caller's random number; the next ones follow from it (Park and Miller, CACM 31,
-- 1988).
local seed
local function draw()
  local drawn = u
  seed = (seed or floor(drawn * 2147483646) + 1) * 16807 % 2147483647
  u = (seed - 1) / 2147483646
  return drawn
end

local function open_at(index)
  return call('ZRANGE', OPEN, index, index)[1]
end

-- Return an open channel, the wanted one unless that is empty; nil if there is none.
local function pick(wanted)
  if learning > 0 then
    return nil
  elseif wanted ~= '' then
    return call('ZSCORE', OPEN, wanted) and wanted
  end
  local n = call('ZCARD', OPEN)
  if n == 0 then
    return nil
  elseif policy == 'random' then
    return open_at(floor(draw() * n))
  elseif policy == 'two_choices' then
    if n == 1 then
      return open_at(0)
    end
    local i = floor(draw() * n)
    local j = floor(draw() * (n - 1))
    if j >= i then
      j = j + 1
    end
    local first, second = open_at(i), open_at(j)
    return count(second) < count(first) and second or first
  elseif policy == 'round_robin' then
    local last, last_order = unpack(call('HMGET', META, 'last', 'last_order'))
    local channel
    if last then
      local order = read_account(last)
      if not order or order < 0 then
        order = last_order
      end
      channel = call('ZRANGEBYSCORE', OPEN, '(' .. order, '+inf', 'LIMIT', 0, 1)[1] or open_at(0)
    else
      channel = open_at(floor(draw() * n))
    end
    call('HSET', META, 'last', channel, 'last_order', (read_account(channel)))
    return channel
  end
  local channels = call('ZRANGE', OPEN, 0, -1)
  if policy == 'least_loaded' then
    local least, best = NEVER, {}
    for _, channel in ipairs(channels) do
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
  -- weighted: by free slots
  local totals, total = {}, 0
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

-- Count a lease on the channel; return the new count.
local function take(lease, holder, since, channel)
  local added = call('ZADD', SLOTS, 0, channel .. '\n' .. lease)
  counts[channel] = counts[channel] and counts[channel] + added
  call('HSET', LEASES, lease, holder .. '\n' .. since .. '\n' .. channel)
  local taken = count(channel)
  if taken == 1 then
    call('PEXPIRE', SLOTS, KEEP)
    call('PEXPIRE', LEASES, KEEP)
  end
  local _, cap = read_account(channel)
  if not cap then
    -- Not in the account map: counted like a removed account with the default cap.
    call('HSET', ACCOUNTS, channel, '-1 10')
    call('PEXPIRE', ACCOUNTS, KEEP)
  elseif taken >= cap then
    call('ZREM', OPEN, channel)
  end
  return taken
end
