-- Put anew on the stream what was delivered and is pending with nobody: no consumer would ever get it.
-- KEYS: stream. ARGV: group, where to begin, last delivered id, how many entries to look at.
-- Returns where to go on ('-' at the end) and how many were moved.
local found = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])
local moved = 0
for _, entry in ipairs(found) do
    -- Lua passes on so many values and not many more; no message of ours has a tenth of that.
    if #entry[2] <= 1000 and #redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1) == 0 then
        redis.call('XADD', KEYS[1], '*', unpack(entry[2]))
        redis.call('XDEL', KEYS[1], entry[1])
        moved = moved + 1
    end
end
if #found < tonumber(ARGV[4]) then
    return {'-', moved}
end
return {'(' .. found[#found][1], moved}
