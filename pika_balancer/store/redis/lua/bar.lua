-- Pause a channel, let it rest, or resume it.
--
-- ARGV: channel what (what: 'pause', 'resume', or for how many milliseconds it rests)
-- Returns '1' and the survey; nothing if there is no such channel.
-- include pool.lua
-- include enter.lua
-- include settle.lua
-- include pick.lua
-- include line.lua
-- include news.lua
-- include survey.lua
local channel, what = ARGV[9], ARGV[10]
local items = {}
if read_account(channel) then
  if what == 'pause' then
    call('ZADD', RESTS, '+inf', '\n' .. channel)
  elseif what == 'resume' then
    call('ZREM', RESTS, channel, '\n' .. channel)
  else
    call('ZADD', RESTS, 'GT', now + tonumber(what), channel)
    look_by(now + tonumber(what))
  end
  call('PEXPIRE', RESTS, KEEP)
  settle(channel)
  serve()
  publish_news()
  add(items, 1)
  survey(items)
end
return answer(items)
