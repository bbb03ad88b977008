-- How all accounts stand.
-- include each.lua

-- List what each account looks like: channel, order, cap, count, paused, end of its rest.
local function survey(list)
  each(ACCOUNTS, function(channel, record)
    local order, cap = match(record, '^(%-?%d+) (%d+)$')
    local paused = call('ZSCORE', RESTS, '\n' .. channel) and 1 or 0
    add(list, channel, order, cap, count(channel), paused, call('ZSCORE', RESTS, channel) or '')
  end)
end
