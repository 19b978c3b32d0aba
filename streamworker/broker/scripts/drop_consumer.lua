-- Forget a consumer only while nothing is pending with it: DELCONSUMER would drop its entries silently.
-- KEYS: stream. ARGV: group, consumer, least idle milliseconds. Returns 1 if it was dropped.
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local fields = {}
    for i = 1, #row, 2 do
        fields[row[i]] = row[i + 1]
    end
    if fields['name'] == ARGV[2] and fields['pending'] == 0 and fields['idle'] >= tonumber(ARGV[3]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
        return 1
    end
end
return 0
