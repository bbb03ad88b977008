-- State all leases and waiters of a process, which keeps it alive, and make the pool agree with them.
--
-- An entry of the process that is not stated has ended and is removed. A stated entry that the pool lacks is
-- counted again, since the server has lost it, unless it is remembered as ended.
--
-- ARGV: label first leaving entry... (label: name for people; first: '1' if an empty pool is new and has lost
-- nothing; leaving: '1' to count as dead at once; entry, four each: lease, 'h' held or 'w' waiting, channel
-- or wanted channel, since or ticket)
-- Returns the number of entries, per entry 'g' (held, or granted meanwhile), 'w' (waiting), 'r' (released by
-- another process that shared it) or 'l' (taken away), with the channel, or the ticket of a waiter; then the
-- accounts.
-- include pool.lua
-- include helpers.lua
-- include refresh_eligibility.lua
-- include housekeeping.lua
-- include pick.lua
-- include queue.lua
-- include enqueue.lua
-- include accounts.lua
local label, is_first, is_leaving = ARGV[9], ARGV[10] == '1', ARGV[11] == '1'
local last = match(call('HGET', PROCESSES, process) or '0', '^%d+')
if tonumber(seq) < tonumber(last) then
  return '<'
end
if not meta[1] then
  due = now
  call('HSET', META, 'born', now, 'due', due)
  if not is_first then
    learning = now + ttl
    call('HSET', META, 'learning', learning)
  end
end
local expiry = is_leaving and now or now + ttl
call('HSET', PROCESSES, process, seq .. ' ' .. format('%d', expiry) .. ' ' .. label)
schedule(expiry)
local stated = {}
for i = 12, #ARGV, 4 do
  stated[ARGV[i]] = true
end
each(LEASES, function(lease, record)
  local holder, channel = match(record, '^([^\n]+)\n%d+\n([^\n]+)$')
  if holder == process and not stated[lease] then
    free_slot(lease, channel)
  end
end)
each(WAITERS, function(waiter, record)
  if match(record, '^[^\n]+') == process and not stated[waiter] then
    leave_queue(waiter)
  end
end)
for i = 12, #ARGV, 4 do
  local lease, kind, channel, since = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if kind == 'h' then
    local holder, begun = read_lease(lease)
    if not holder and not call('ZSCORE', ENDED, lease) then
      leave_queue(lease)
      take(lease, process, since, channel)
    elseif holder and holder ~= process and not is_alive(holder) then
      call('HSET', LEASES, lease, process .. '\n' .. begun .. '\n' .. channel)
    end
  elseif not read_lease(lease) and call('HEXISTS', WAITERS, lease) == 0 then
    enqueue(lease, channel, since ~= '' and since or nil)
  end
end
housekeeping()
serve_all()
local items = { (#ARGV - 11) / 4 }
for i = 12, #ARGV, 4 do
  local lease, kind, stated_channel = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local _, _, channel = read_lease(lease)
  if channel then
    add(items, 'g', channel)
  elseif kind == 'w' then
    add(items, 'w', match(call('HGET', WAITERS, lease), '^[^\n]+\n(%d+)'))
  else
    add(items, call('ZSCORE', ENDED, '\n' .. lease) and 'l' or 'r', stated_channel)
  end
end
add_accounts(items)
for i = 1, #KEYS do
  call('PEXPIRE', KEYS[i], KEEP)
end
return reply(items)
