-- What a slot that comes back, or another rule, makes of a channel.

local function is_barred(channel)
  return call('ZSCORE', RESTS, channel) or call('ZSCORE', RESTS, '\n' .. channel)
end

-- Put the channel among the open ones or take it out, as all else says: the one test of eligibility.
local function settle(channel)
  local order, cap = read_account(channel)
  if not order then
    return
  end
  local taken, barred = count(channel), is_barred(channel)
  if order >= 0 and taken < cap and not barred then
    if call('ZADD', OPEN, order, channel) == 1 then
      opened[#opened + 1] = channel
      call('PEXPIRE', OPEN, KEEP)
    end
    return
  end
  call('ZREM', OPEN, channel)
  if order < 0 and taken == 0 and not barred then
    call('HDEL', ACCOUNTS, channel)
  end
end

-- Count the lease no longer.
local function drop(lease, channel)
  call('HDEL', HELD, lease)
  local removed = call('ZREM', SLOTS, channel .. '\n' .. lease)
  counts[channel] = counts[channel] and counts[channel] - removed
  if not call('ZSCORE', OPEN, channel) then
    settle(channel)
  end
end
