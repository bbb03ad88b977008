-- Grant slots, or put the wishes in line.
--
-- ARGV: wish... (four each: lease, channel or '' for any, u, '1' to wait in line or '0' not to)
-- Returns per wish two items: 'g' channel (granted; a repeated call gets the same) with the count behind a
-- space before it, 'w' ticket (waits), '-' '' (nothing free), 'u' '' (no such channel); after them, if
-- anything was refused, the survey.
-- include pool.lua
-- include enter.lua
-- include pick.lua
if call('ZCARD', LINE) > 0 then
  -- include line.lua
  serve_all()
end
local is_repeated = seq == last
local items, survey_too = {}, false
for i = 9, #ARGV, 4 do
  local lease, wish, patience = ARGV[i], ARGV[i + 1], ARGV[i + 3]
  chance, seed = tonumber(ARGV[i + 2]), nil
  local channel, waiting, _
  if is_repeated then
    _, _, channel = read_lease(lease)
    waiting = not channel and match(call('HGET', WAITS, lease) or '', '^[^\n]+\n(%d+)')
  end
  if channel then
    add(items, 'g ' .. count(channel), channel)
  elseif waiting then
    add(items, 'w', waiting)
  elseif wish ~= '' and (read_account(wish) or -1) < 0 then
    add(items, 'u', '')
    survey_too = true
  else
    channel = pick(wish)
    if channel then
      add(items, 'g ' .. take(lease, process, format('%d', now), channel), channel)
    elseif patience == '1' and size > 0 then
      -- include join.lua
      add(items, 'w', join_line(lease, wish))
    else
      add(items, '-', '')
      survey_too = true
    end
  end
end
if survey_too then
  -- include survey.lua
  survey(items)
end
return answer(items)
