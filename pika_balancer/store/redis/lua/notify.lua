-- Tell the other processes that the accounts have changed.
-- include pool.lua

local function notify()
  call(verb, sub(META, 1, -5) .. 'news', process)
end
