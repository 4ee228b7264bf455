-- Note how far the ledger has counted its beats, every tenth or so, and close an epoch that must not admit for now:
-- `join` opens it again.
--
-- KEYS[1] meta   KEYS[2] installed
-- ARGV[1] epoch   ARGV[2] the ledger's beats   ARGV[3] '1': close
-- Reply: -1 another epoch   0 closed   1 open   2 open, and accounts are quarantined

if not epoch_is(KEYS[1], tonumber(ARGV[1])) then return -1 end
local NOTED_EVERY = 10
if tonumber(redis.call('HGET', KEYS[1], 'beat') or 0) + NOTED_EVERY <= tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'beat', ARGV[2])
end
if ARGV[3] == '1' then redis.call('HSET', KEYS[1], 'open', '0') end
if redis.call('HGET', KEYS[1], 'open') ~= '1' then return 0 end
return redis.call('HEXISTS', KEYS[2], 'back') == 1 and 2 or 1
