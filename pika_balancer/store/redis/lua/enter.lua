-- The way in: the process shows itself, unless it is not known (any more), '?', or this call came too late, '<'.
local last, label = match(call('HGET', PROCS, process) or '', '^(%d+) %d+ (.*)$')
if not last then
  return '?'
elseif tonumber(seq) < tonumber(last) then
  return '<'
end
call('HSET', PROCS, process, seq .. ' ' .. format('%d', now + ttl) .. ' ' .. label)
-- include tend.lua
