-- Repair entries that disagree, and free slots of orphans whose jobs are known to have ended.
--
-- ARGV: lease... (of orphans; one whose process is alive is kept)
-- Returns the number of freed leases and their names, then the faults that were repaired.
-- include pool.lua
-- include helpers.lua
-- include refresh_eligibility.lua
-- include housekeeping.lua
-- include queue.lua
-- include check.lua
local faults = check(true)
local freed = {}
for i = 9, #ARGV do
  local lease = ARGV[i]
  local holder, _, channel = read_lease(lease)
  if channel and not is_alive(holder) then
    free_slot(lease, channel)
    remember_ended(lease, orphan_ttl, true)
    freed[#freed + 1] = lease
  end
end
due = now
housekeeping()
serve_all()
local items = { #freed, unpack(freed) }
add(items, unpack(faults))
return reply(items)
