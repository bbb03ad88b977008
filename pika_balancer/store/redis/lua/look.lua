-- Tell how the accounts stand.
--
-- ARGV: -
-- Returns the survey.
-- include pool.lua
-- include enter.lua
-- include survey.lua
local items = {}
survey(items)
return answer(items)
