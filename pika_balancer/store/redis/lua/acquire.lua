-- Grant slots, or queue the requests.
--
-- ARGV: request... (four each: lease, channel or '' for any, u, '1' to wait in the queue or '0' not to)
-- Returns per request two items: 'g' and the count after a space, channel (granted; a repeated call gets the
-- same slot); 'w', ticket (queued); '-', '' (nothing free); 'u', '' (no such channel). If any was refused,
-- the accounts follow.
-- include pool.lua
-- include handshake.lua
-- include pick.lua
-- include queue.lua
-- include enqueue.lua
-- include accounts.lua
local refusal, last = handshake()
if refusal then
  return refusal
end
if call('ZCARD', QUEUE) > 0 then
  serve_all()
end
local is_repeated = seq == last
local items, is_any_refused = {}, false
for i = 9, #ARGV, 4 do
  local lease, wanted, may_wait = ARGV[i], ARGV[i + 1], ARGV[i + 3] == '1'
  u, seed = tonumber(ARGV[i + 2]), nil
  local channel, ticket, _
  if is_repeated then
    _, _, channel = read_lease(lease)
    ticket = not channel and match(call('HGET', WAITERS, lease) or '', '^[^\n]+\n(%d+)')
  end
  if channel then
    add(items, 'g ' .. count(channel), channel)
  elseif ticket then
    add(items, 'w', ticket)
  elseif wanted ~= '' and (read_account(wanted) or -1) < 0 then
    add(items, 'u', '')
    is_any_refused = true
  else
    channel = pick(wanted)
    if channel then
      add(items, 'g ' .. take(lease, process, format('%d', now), channel), channel)
    elseif may_wait and size > 0 then
      add(items, 'w', enqueue(lease, wanted))
    else
      add(items, '-', '')
      is_any_refused = true
    end
  end
end
if is_any_refused then
  add_accounts(items)
end
return reply(items)
