-- Give slots back, or leave the line, and serve the line with what that frees.
--
-- ARGV: lease... (of a lease, or of a waiter: they have the same name)
-- Returns per lease two items: the channel and how many are counted there now; empty ones if there was nothing.
-- include pool.lua
-- include pick.lua
local refused = enter()
if refused then
  return refused
end
local channels = {}
for i = 9, #ARGV do
  local lease = ARGV[i]
  local _, _, channel = read_lease(lease)
  if channel then
    drop(lease, channel)
    if sub(lease, 1, 1) == '=' then
      -- Others may hold it too, and must not believe that the server has forgotten it.
      remember(lease, 3 * ttl)
    end
  else
    leave_line(lease)
  end
  channels[#channels + 1] = channel or ''
end
serve()
local items = {}
for _, channel in ipairs(channels) do
  add(items, channel, channel ~= '' and count(channel) or '')
end
return answer(items)
