-- Pause a channel, cool it down, or resume it.
--
-- ARGV: channel change (change: 'pause', 'resume', or the milliseconds of a cooldown)
-- Returns '1' and the accounts; nothing if there is no such channel.
-- include pool.lua
-- include handshake.lua
-- include helpers.lua
-- include refresh_eligibility.lua
-- include queue.lua
-- include notify.lua
-- include accounts.lua
local channel, change = ARGV[9], ARGV[10]
local refusal = handshake()
if refusal then
  return refusal
end
local items = {}
if read_account(channel) then
  if change == 'pause' then
    call('ZADD', COOLDOWNS, '+inf', '\n' .. channel)
  elseif change == 'resume' then
    call('ZREM', COOLDOWNS, channel, '\n' .. channel)
  else
    call('ZADD', COOLDOWNS, 'GT', now + tonumber(change), channel)
    schedule(now + tonumber(change))
  end
  call('PEXPIRE', COOLDOWNS, KEEP)
  refresh_eligibility(channel)
  serve()
  notify()
  add(items, 1)
  add_accounts(items)
end
return reply(items)
