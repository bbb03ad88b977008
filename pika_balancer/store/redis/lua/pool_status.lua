-- List everything that the pool holds, and what in it disagrees; any caller may ask.
--
-- ARGV: -
-- Returns sections, each as the number of its rows and then the rows: leases (lease, process, since,
-- channel), waiters (waiter, process, since, wanted) in queue order, processes (name, expiry, label), faults
-- (text); then the accounts.
-- include pool.lua
-- include accounts.lua
-- include check.lua
local items = {}
local function add_section(rows, width)
  add(items, #rows / width)
  for i = 1, #rows do
    items[#items + 1] = rows[i]
  end
end
local leases, queued, waiters, processes = {}, {}, {}, {}
each(LEASES, function(lease, record)
  local holder, since, channel = match(record, '^([^\n]+)\n(%d+)\n([^\n]+)$')
  add(leases, lease, holder, since, channel)
end)
each(WAITERS, function(waiter, record)
  local holder, ticket, since, wanted = match(record, '^([^\n]+)\n(%d+)\n(%d+)\n([^\n]*)$')
  queued[#queued + 1] = { ticket, waiter, holder, since, wanted }
end)
table.sort(queued, function(a, b)
  return a[1] < b[1]
end)
for _, row in ipairs(queued) do
  add(waiters, unpack(row, 2))
end
each(PROCESSES, function(name, record)
  local expiry, label = match(record, '^%d+ (%d+) (.*)$')
  add(processes, name, expiry, label)
end)
add_section(leases, 4)
add_section(waiters, 4)
add_section(processes, 3)
add_section(check(false), 1)
add_accounts(items)
return reply(items)
