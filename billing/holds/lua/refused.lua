-- Keep the last requests of some keys that were refused, and forget the keys that were refused longest ago.
--
-- KEYS[1] sorted set: API key to the time in ms of its last refusal   KEYS[2..] lists, the newest first: of each key
-- ARGV[1] records that a key keeps   ARGV[2] keys that are kept   ARGV[3] how long in ms   ARGV[4] now in Unix ms
-- ARGV[5..] for each list: the API key, how many records follow, the records, the oldest first
-- Reply: the API keys that are forgotten, whose lists the caller deletes

local index, now, place = KEYS[1], tonumber(ARGV[4]), 5
for number = 2, #KEYS do
  local count = tonumber(ARGV[place + 1])
  for record = place + 2, place + 1 + count do
    redis.call('LPUSH', KEYS[number], ARGV[record])
  end
  redis.call('LTRIM', KEYS[number], 0, ARGV[1] - 1)
  redis.call('PEXPIRE', KEYS[number], ARGV[3])
  redis.call('ZADD', index, now, ARGV[place])
  place = place + 2 + count
end
redis.call('ZREMRANGEBYSCORE', index, '-inf', now - ARGV[3])
redis.call('PEXPIRE', index, ARGV[3])
local over = redis.call('ZCARD', index) - ARGV[2]
if over <= 0 then
  return {}
end
local gone = redis.call('ZRANGE', index, 0, over - 1)
redis.call('ZREM', index, unpack(gone))
return gone
