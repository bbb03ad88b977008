-- Count a job that already runs, even above the cap; the same key is the same lease for every process.
--
-- ARGV: lease channel
-- Returns the channel that the lease is counted on, another one if it was adopted there before, and the
-- count.
-- include pool.lua
-- include handshake.lua
-- include helpers.lua
-- include pick.lua
-- include queue.lua
local lease, channel = ARGV[9], ARGV[10]
local refusal = handshake()
if refusal then
  return refusal
end
local holder, since, counted = read_lease(lease)
if not counted then
  call('ZREM', ENDED, lease, '\n' .. lease)
  take(lease, process, format('%d', now), channel)
elseif counted == channel and not is_alive(holder) then
  call('HSET', LEASES, lease, process .. '\n' .. since .. '\n' .. channel)
end
serve()
return reply({ counted or channel, count(counted or channel) })
