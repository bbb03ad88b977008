-- Count a job that runs already, even past the cap; the same key again is the same lease, whoever asks.
--
-- ARGV: lease channel
-- Returns the channel that it is counted on, which is another one if it was adopted there, and the count.
-- include pool.lua
-- include enter.lua
-- include settle.lua
-- include pick.lua
-- include line.lua
local lease, channel = ARGV[9], ARGV[10]
local holder, since, known = read_lease(lease)
if not known then
  call('ZREM', GONE, lease, '\n' .. lease)
  take(lease, process, format('%d', now), channel)
elseif known == channel and not is_alive(holder) then
  call('HSET', HELD, lease, process .. '\n' .. since .. '\n' .. channel)
end
serve()
return answer({ known or channel, count(known or channel) })
