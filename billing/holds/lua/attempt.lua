-- Count one failed attempt to show a key.
--
-- KEYS[1] hash: address to its failed attempts since the window began; it expires with the window
-- ARGV[1] address   ARGV[2] addresses that are counted at most   ARGV[3] the window in ms
-- Reply: {failed attempts of this address, 0 where the hash is full; ms until the window ends}

local key, address = KEYS[1], ARGV[1]
local count = 0
if redis.call('HLEN', key) < tonumber(ARGV[2]) or redis.call('HEXISTS', key, address) == 1 then
  count = redis.call('HINCRBY', key, address, 1)
end
local left = redis.call('PTTL', key)
if left < 0 then
  left = tonumber(ARGV[3])
  redis.call('PEXPIRE', key, left)
end
return {count, left}
