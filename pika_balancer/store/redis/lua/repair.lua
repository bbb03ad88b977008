-- Set right what does not agree, and count orphans no longer that somebody vouches for to be over.
--
-- ARGV: lease... (of orphans; one whose process is alive stays)
-- Returns the number of leases given up and these, then the faults that there were.
-- include pool.lua
-- include settle.lua
-- include pick.lua
-- include line.lua
-- include each.lua
-- include check.lua
local faults = check(true)
local over = {}
for i = 9, #ARGV do
  local holder, _, channel = read_lease(ARGV[i])
  if channel and not is_alive(holder) then
    drop(ARGV[i], channel)
    remember(ARGV[i], orphan_ttl, true)
    over[#over + 1] = ARGV[i]
  end
end
due = now
-- include tend.lua
serve_all()
local items = { #over, unpack(over) }
add(items, unpack(faults))
return answer(items)
