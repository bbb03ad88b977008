-- Keep the index of open channels right after a change.
-- include pool.lua

local function is_held_back(channel)
  return call('ZSCORE', COOLDOWNS, channel) or call('ZSCORE', COOLDOWNS, '\n' .. channel)
end

-- Add the channel to the open ones or remove it; forget it once it is removed from the map and drained.
local function refresh_eligibility(channel)
  local order, cap = read_account(channel)
  if not order then
    return
  end
  local taken, held_back = count(channel), is_held_back(channel)
  if order >= 0 and taken < cap and not held_back then
    if call('ZADD', OPEN, order, channel) == 1 then
      opened[#opened + 1] = channel
      call('PEXPIRE', OPEN, KEEP)
    end
    return
  end
  call('ZREM', OPEN, channel)
  if order < 0 and taken == 0 and not held_back then
    call('HDEL', ACCOUNTS, channel)
  end
end

local function free_slot(lease, channel)
  call('HDEL', LEASES, lease)
  local removed = call('ZREM', SLOTS, channel .. '\n' .. lease)
  counts[channel] = counts[channel] and counts[channel] - removed
  if not call('ZSCORE', OPEN, channel) then
    refresh_eligibility(channel)
  end
end
