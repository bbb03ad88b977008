-- Tell how the accounts stand.
--
-- ARGV: -
-- Returns the survey.
-- include pool.lua
local refused = enter()
if refused then
  return refused
end
local items = {}
survey(items)
return answer(items)
