-- How a channel is picked, and its slot taken.

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

-- Return a channel that can take a job for the wish, or nil.
local function pick(wish)
  if learning > 0 then
    return nil
  elseif wish ~= '' then
    return call('ZSCORE', OPEN, wish) and wish
  end
  local n = call('ZCARD', OPEN)
  if n == 0 then
    return nil
  elseif policy == 'random' then
    return at(floor(draw() * n))
  end
  -- include rules.lua
  return PICK[policy](n)
end

-- Count a lease on the channel; return how many there are then.
local function take(lease, holder, since, channel)
  local added = call('ZADD', SLOTS, 0, channel .. '\n' .. lease)
  counts[channel] = counts[channel] and counts[channel] + added
  call('HSET', HELD, lease, holder .. '\n' .. since .. '\n' .. channel)
  local taken = count(channel)
  if taken == 1 then
    call('PEXPIRE', SLOTS, KEEP)
    call('PEXPIRE', HELD, KEEP)
  end
  local _, cap = read_account(channel)
  if not cap then
    -- Nobody has configured it; as an account without a stated cap it would have this one.
    call('HSET', ACCOUNTS, channel, '-1 10')
    call('PEXPIRE', ACCOUNTS, KEEP)
  elseif taken >= cap then
    call('ZREM', OPEN, channel)
  end
  return taken
end
