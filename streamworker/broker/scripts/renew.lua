-- Reset the idle time of those entries that are still pending with us; a bare XCLAIM would steal them back from a new owner.
-- One that we have given away stands under our name until somebody takes it, and is known by its idle time (pass_on.lua).
-- KEYS: stream. ARGV: group, consumer, idle milliseconds of what was given away, entry ids. Returns 1 or 0 for each id.
local kept = {}
for i = 4, #ARGV do
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
    if pending[1] and pending[1][2] == ARGV[2] and pending[1][3] < tonumber(ARGV[3]) then
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
        kept[#kept + 1] = 1
    else
        kept[#kept + 1] = 0
    end
end
return kept
