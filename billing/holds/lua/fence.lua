-- Begin an epoch: what this server has of older epochs is invalid from now on, and nothing is admitted until the epoch
-- is opened.
--
-- KEYS[1] meta   KEYS[2] joined (set of gateways)   KEYS[3] installed
-- ARGV[1] epoch   ARGV[2] identity of this server's life   ARGV[3] identity of the ledger and of its epoch
-- ARGV[4] how far the ledger has counted its beats
-- Reply: 1 begun, 0 a newer or the same epoch stands here already

local known = tonumber(redis.call('HGET', KEYS[1], 'epoch') or -1)
if known >= tonumber(ARGV[1]) then return 0 end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'identity', ARGV[2], 'ledger', ARGV[3], 'beat', ARGV[4], 'open', '0')
redis.call('HSET', KEYS[3], 'epoch', ARGV[1])
return 1
