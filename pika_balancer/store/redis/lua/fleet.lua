-- Tell all that the pool knows, to anybody, and what in it does not agree.
--
-- ARGV: -
-- Returns sections, each as the number of its rows and then these: leases (lease, process, since, channel),
-- waiters (waiter, process, since, wish) in the order of their places, processes (name, expiry, label), faults
-- (text); then the survey.
-- include pool.lua
-- include settle.lua
-- include survey.lua
-- include check.lua
local items = {}
local function section(rows, width)
  add(items, #rows / width)
  for i = 1, #rows do
    items[#items + 1] = rows[i]
  end
end
local leases, waiters, processes = {}, {}, {}
each(HELD, function(lease, record)
  local holder, since, channel = match(record, '^([^\n]+)\n(%d+)\n([^\n]+)$')
  add(leases, lease, holder, since, channel)
end)
local places = {}
each(WAITS, function(waiter, record)
  local holder, ticket, since, wish = match(record, '^([^\n]+)\n(%d+)\n(%d+)\n([^\n]*)$')
  places[#places + 1] = { ticket, waiter, holder, since, wish }
end)
table.sort(places, function(a, b)
  return a[1] < b[1]
end)
for _, place in ipairs(places) do
  add(waiters, unpack(place, 2))
end
each(PROCS, function(name, record)
  local expiry, its_label = match(record, '^%d+ (%d+) (.*)$')
  add(processes, name, expiry, its_label)
end)
section(leases, 4)
section(waiters, 4)
section(processes, 3)
section(check(false), 1)
survey(items)
return answer(items)
