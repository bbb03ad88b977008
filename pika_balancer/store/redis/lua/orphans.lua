-- Count slots of dead processes no longer that somebody vouches for to be over, and tell which there are then.
--
-- ARGV: over... (two each: lease, dead_since; it stays if its process has been heard of since, or another has it)
-- Returns per slot of a dead process three items: lease, channel, and since when its process counts as dead.
-- include pool.lua
-- include settle.lua
-- include pick.lua
-- include line.lua
-- include each.lua
local dead = {}
each(PROCS, function(name, record)
  local expiry = tonumber(match(record, '^%d+ (%d+)'))
  if expiry <= now then
    dead[name] = expiry
  end
end)
local items = {}
if next(dead) then
  for i = 9, #ARGV, 2 do
    local holder, _, channel = read_lease(ARGV[i])
    if channel and dead[holder] == tonumber(ARGV[i + 1]) then
      drop(ARGV[i], channel)
      remember(ARGV[i], orphan_ttl, true)
    end
  end
  serve()
  each(HELD, function(lease, record)
    local holder, channel = match(record, '^([^\n]+)\n%d+\n([^\n]+)$')
    if dead[holder] then
      add(items, lease, channel, format('%d', dead[holder]))
    end
  end)
end
return answer(items)
