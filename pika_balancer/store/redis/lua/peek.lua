-- Return the state of all accounts.
--
-- ARGV: -
-- Returns the accounts.
-- include pool.lua
-- include handshake.lua
-- include accounts.lua
local refusal = handshake()
if refusal then
  return refusal
end
local items = {}
add_accounts(items)
return reply(items)
