-- Renew the calling process, and do the housekeeping that is due.
-- include pool.lua
-- include housekeeping.lua

-- Return what to reply instead, or nil, and the number of the process's last call. '?' means that the process
-- is not known (any more), '<' that a later call arrived before this one.
local function handshake()
  local last, label = match(call('HGET', PROCESSES, process) or '', '^(%d+) %d+ (.*)$')
  if not last then
    return '?'
  elseif tonumber(seq) < tonumber(last) then
    return '<'
  end
  call('HSET', PROCESSES, process, seq .. ' ' .. format('%d', now + ttl) .. ' ' .. label)
  housekeeping()
  return nil, last
end
