-- Free slots of dead processes whose jobs are known to have ended, and list the remaining ones.
--
-- ARGV: ended... (two each: lease, dead_since; kept if its process has called since, or another one has it)
-- Returns per slot of a dead process three items: lease, channel, and since when the process counts as dead.
-- include pool.lua
-- include helpers.lua
-- include refresh_eligibility.lua
-- include queue.lua
local dead = {}
each(PROCESSES, function(name, record)
  local expiry = tonumber(match(record, '^%d+ (%d+)'))
  if expiry <= now then
    dead[name] = expiry
  end
end)
local items = {}
if next(dead) then
  for i = 9, #ARGV, 2 do
    local lease, dead_since = ARGV[i], tonumber(ARGV[i + 1])
    local holder, _, channel = read_lease(lease)
    if channel and dead[holder] == dead_since then
      free_slot(lease, channel)
      remember_ended(lease, orphan_ttl, true)
    end
  end
  serve()
  each(LEASES, function(lease, record)
    local holder, channel = match(record, '^([^\n]+)\n%d+\n([^\n]+)$')
    if dead[holder] then
      add(items, lease, channel, format('%d', dead[holder]))
    end
  end)
end
return reply(items)
