-- List the state of all accounts.
-- include pool.lua

-- Add six items per account: channel, order, cap, count, paused, end of its cooldown or ''.
local function add_accounts(list)
  each(ACCOUNTS, function(channel, record)
    local order, cap = match(record, '^(%-?%d+) (%d+)$')
    local paused = call('ZSCORE', COOLDOWNS, '\n' .. channel) and 1 or 0
    add(list, channel, order, cap, count(channel), paused, call('ZSCORE', COOLDOWNS, channel) or '')
  end)
end
