-- Small steps that several operations need.
-- include pool.lua

-- Have housekeeping run at that time or before.
local function schedule(moment)
  if moment < due then
    due = moment
    call('HSET', META, 'due', due)
  end
end

local function is_alive(name)
  return tonumber(match(call('HGET', PROCESSES, name) or '0 0', '^%d+ (%d+)')) > now
end

-- Remember for `span` ms that the lease ended, and whether it was taken away from its holder.
local function remember_ended(lease, span, taken_away)
  call('ZADD', ENDED, now + span, lease)
  if taken_away then
    call('ZADD', ENDED, now + span, '\n' .. lease)
  end
  call('PEXPIRE', ENDED, KEEP)
end
