-- Which of these entries will never be delivered: gone from the stream, or delivered and pending with nobody.
-- KEYS: stream. ARGV: group, last delivered id (milliseconds, sequence), entry ids. Returns the lost ids.
local lost = {}
local last_ms, last_seq = tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 4, #ARGV do
    local id = ARGV[i]
    if #redis.call('XRANGE', KEYS[1], id, id) == 0 then
        lost[#lost + 1] = id
    else
        local ms, seq = string.match(id, '^(%d+)-(%d+)$')
        ms, seq = tonumber(ms), tonumber(seq)
        local delivered = ms < last_ms or (ms == last_ms and seq <= last_seq)
        if delivered and #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) == 0 then
            lost[#lost + 1] = id
        end
    end
end
return lost
