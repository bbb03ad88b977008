-- Apply the difference to a new account map, unless the pool has a newer one.
--
-- ARGV: age account... (age: milliseconds since it was read; account, two each: channel, cap, in map order)
-- Returns the accounts.
-- include pool.lua
-- include handshake.lua
-- include refresh_eligibility.lua
-- include queue.lua
-- include notify.lua
-- include accounts.lua
local read_at = now - tonumber(ARGV[9])
local refusal = handshake()
if refusal then
  return refusal
end
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
    refresh_eligibility(channel)
  end
  version = format('%d', read_at)
  call('HSET', META, 'version', version, 'size', size)
  call('PEXPIRE', ACCOUNTS, KEEP)
  serve()
  if #touched > 0 then
    notify()
  end
end
local items = {}
add_accounts(items)
return reply(items)
