-- Take over an account map by difference, unless a newer one is there.
--
-- ARGV: age account... (age: milliseconds since it was read; two each: channel, cap, in map order)
-- Returns the survey.
-- include pool.lua
-- include enter.lua
-- include settle.lua
-- include pick.lua
-- include line.lua
-- include news.lua
-- include survey.lua
local read_at = now - tonumber(ARGV[9])
local changed = false
if read_at >= tonumber(version) then
  local before, touched = {}, {}
  each(ACCOUNTS, function(channel, record)
    before[channel] = record
  end)
  local function write(channel, record)
    if before[channel] ~= record then
      call('HSET', ACCOUNTS, channel, record)
      touched[#touched + 1] = channel
    end
    before[channel] = nil
  end
  size = 0
  for i = 10, #ARGV, 2 do
    write(ARGV[i], size .. ' ' .. ARGV[i + 1])
    size = size + 1
  end
  local removed = {}
  for channel, record in pairs(before) do
    removed[channel] = '-1 ' .. match(record, '%d+$')
  end
  for channel, record in pairs(removed) do
    write(channel, record)
  end
  table.sort(touched)
  for _, channel in ipairs(touched) do
    settle(channel)
  end
  version = format('%d', read_at)
  call('HSET', META, 'version', version, 'size', size)
  call('PEXPIRE', ACCOUNTS, KEEP)
  serve()
  if #touched > 0 then
    publish_news()
  end
end
local items = {}
survey(items)
return answer(items)
