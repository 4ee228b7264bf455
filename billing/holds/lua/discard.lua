-- Take an entry that can't be read out of the journal, once it is kept elsewhere and if it is still the same.
--
-- KEYS[1] meta   KEYS[2] journal   ARGV[1] epoch   ARGV[2] field   ARGV[3] the entry
-- Reply: 1 taken out   0 another epoch, or another entry

if not epoch_is(KEYS[1], tonumber(ARGV[1])) then return 0 end
if redis.call('HGET', KEYS[2], ARGV[2]) ~= ARGV[3] then return 0 end
return redis.call('HDEL', KEYS[2], ARGV[2])
