-- Release slots or leave the queue, and serve the queue with the slots that this frees.
--
-- ARGV: lease... (of a lease or a waiter: a waiter has the name of its lease to come)
-- Returns per lease two items: the channel and its count; empty ones if there was no such lease.
-- include pool.lua
-- include handshake.lua
-- include refresh_eligibility.lua
-- include helpers.lua
-- include enqueue.lua
-- include queue.lua
local refusal = handshake()
if refusal then
  return refusal
end
local channels = {}
for i = 9, #ARGV do
  local lease = ARGV[i]
  local _, _, channel = read_lease(lease)
  if channel then
    free_slot(lease, channel)
    if sub(lease, 1, 1) == '=' then
      -- Another process may share an adopted lease, and must not think that the server has lost it.
      remember_ended(lease, 3 * ttl)
    end
  else
    leave_queue(lease)
  end
  channels[#channels + 1] = channel or ''
end
serve()
local items = {}
for _, channel in ipairs(channels) do
  add(items, channel, channel ~= '' and count(channel) or '')
end
return reply(items)
