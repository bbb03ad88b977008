-- Give slots back, or leave the line, and serve the line with what that frees.
--
-- ARGV: lease... (of a lease, or of a waiter: they have the same name)
-- Returns per lease two items: the channel and how many are counted there now; empty ones if there was nothing.
-- include pool.lua
-- include enter.lua
-- include settle.lua
local channels = {}
for i = 9, #ARGV do
  local lease = ARGV[i]
  local _, _, channel = read_lease(lease)
  if channel then
    drop(lease, channel)
    if sub(lease, 1, 1) == '=' then
      -- Others may hold it too, and must not believe that the server has forgotten it.
      -- include rarely.lua
      remember(lease, 3 * ttl)
    end
  else
    -- include rarely.lua
    leave_line(lease)
  end
  channels[#channels + 1] = channel or ''
end
if #opened > 0 then
  -- include pick.lua
  -- include line.lua
  serve()
end
local items = {}
for _, channel in ipairs(channels) do
  add(items, channel, channel ~= '' and count(channel) or '')
end
return answer(items)
