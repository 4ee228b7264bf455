-- A gateway has settled what it knew of older epochs; when every living one has, the epoch opens.
--
-- KEYS[1] meta   KEYS[2] joined (set of gateways)
-- ARGV[1] epoch   ARGV[2] this gateway   ARGV[3..] the gateways that live, as this one has seen
-- Reply: -1 another epoch   0 others are awaited   1 open

if not epoch_is(KEYS[1], tonumber(ARGV[1])) then return -1 end
redis.call('SADD', KEYS[2], ARGV[2])
if redis.call('HGET', KEYS[1], 'open') == '1' then return 1 end
for i = 3, #ARGV do
  if redis.call('SISMEMBER', KEYS[2], ARGV[i]) == 0 then return 0 end
end
redis.call('HSET', KEYS[1], 'open', '1')
return 1
