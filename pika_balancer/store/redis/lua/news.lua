-- What others are told.

-- Tell the other processes that the accounts have changed.
local function publish_news()
  call(verb, sub(META, 1, -5) .. 'news', process)
end
