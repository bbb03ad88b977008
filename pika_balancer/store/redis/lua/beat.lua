-- State all that the process holds and waits for, which keeps it alive; the pool is made to agree.
--
-- What the pool has of the process and is not stated was given back. What is stated and the pool does not have
-- is counted again, for the server has forgotten it, unless it is remembered to be gone.
--
-- ARGV: label first leaving claim... (label: who that is, for people; first: '1' if an empty pool is new and has
-- forgotten nothing; leaving: '1' to be called dead at once; four each: lease, 'h' held or 'w' waits,
-- channel or wish, since or ticket)
-- Returns the number of claims, per claim 'g' (held, or granted meanwhile), 'w' (waits), 'r' (given back by
-- somebody who held it too) or 'l' (taken away), with the channel, or the ticket of who waits; then the survey.
-- include pool.lua
-- include settle.lua
-- include pick.lua
-- include line.lua
-- include join.lua
-- include survey.lua
local last = match(call('HGET', PROCS, process) or '0', '^%d+')
if tonumber(seq) < tonumber(last) then
  return '<'
end
local label, first, leaving = ARGV[9], ARGV[10], ARGV[11]
if not meta[1] then
  due = now
  call('HSET', META, 'born', now, 'due', due)
  if first ~= '1' then
    learning = now + ttl
    call('HSET', META, 'learning', learning)
  end
end
local expiry = leaving == '1' and now or now + ttl
call('HSET', PROCS, process, seq .. ' ' .. format('%d', expiry) .. ' ' .. label)
look_by(expiry)
local stated = {}
for i = 12, #ARGV, 4 do
  stated[ARGV[i]] = true
end
local superfluous = {}
each(HELD, function(lease, record)
  if match(record, '^[^\n]+') == process and not stated[lease] then
    add(superfluous, lease)
  end
end)
for _, lease in ipairs(superfluous) do
  local _, _, channel = read_lease(lease)
  drop(lease, channel)
end
each(WAITS, function(waiter, record)
  if match(record, '^[^\n]+') == process and not stated[waiter] then
    leave_line(waiter)
  end
end)
for i = 12, #ARGV, 4 do
  local lease, kind, channel, since = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if kind == 'h' then
    local holder, begun, counted = read_lease(lease)
    if holder == process and counted ~= channel then
      -- It was granted here without the server, which has granted it elsewhere since.
      drop(lease, counted)
      holder = nil
    end
    if holder and holder ~= process and not is_alive(holder) then
      call('HSET', HELD, lease, process .. '\n' .. begun .. '\n' .. channel)
    elseif not holder and not call('ZSCORE', GONE, lease) then
      leave_line(lease)
      take(lease, process, since, channel)
    end
  elseif not read_lease(lease) and call('HEXISTS', WAITS, lease) == 0 then
    join_line(lease, channel, since ~= '' and since or nil)
  end
end
-- include tend.lua
serve_all()
local items = { (#ARGV - 11) / 4 }
for i = 12, #ARGV, 4 do
  local lease, kind = ARGV[i], ARGV[i + 1]
  local _, _, channel = read_lease(lease)
  if channel then
    add(items, 'g', channel)
  elseif kind == 'w' then
    add(items, 'w', match(call('HGET', WAITS, lease), '^[^\n]+\n(%d+)'))
  else
    add(items, call('ZSCORE', GONE, '\n' .. lease) and 'l' or 'r', ARGV[i + 2])
  end
end
survey(items)
for i = 1, #KEYS do
  call('PEXPIRE', KEYS[i], KEEP)
end
return answer(items)
