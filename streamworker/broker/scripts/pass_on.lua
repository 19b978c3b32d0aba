-- Move a pending entry to a consumer, with a given idle time, if it is still pending with us.
-- KEYS: stream. ARGV: group, our consumer, entry id, the other consumer, idle milliseconds. Returns 1 if it was ours.
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if not (pending[1] and pending[1][2] == ARGV[2]) then
    return 0
end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[4], 0, ARGV[3], 'IDLE', ARGV[5], 'JUSTID')
return 1
