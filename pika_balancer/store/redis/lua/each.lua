-- How to go through a hash.

-- Call `tell(field, value)` for each field of the hash.
local function each(hash, tell)
  local all = call('HGETALL', hash)
  for i = 1, #all, 2 do
    tell(all[i], all[i + 1])
  end
end
