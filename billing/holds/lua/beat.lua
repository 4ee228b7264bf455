-- Note how far the ledger has counted its beats, every tenth or so, and close an epoch that must not admit for now:
-- `join` opens it again.
--
-- KEYS[1] meta
-- ARGV[1] epoch   ARGV[2] the ledger's beats   ARGV[3] '1': close
-- Reply: -1 another epoch   0 closed   1 open

if not epoch_is(KEYS[1], tonumber(ARGV[1])) then return -1 end
local NOTED_EVERY = 10
if tonumber(redis.call('HGET', KEYS[1], 'beat') or 0) + NOTED_EVERY <= tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'beat', ARGV[2])
end
if ARGV[3] == '1' then redis.call('HSET', KEYS[1], 'open', '0') end
return redis.call('HGET', KEYS[1], 'open') == '1' and 1 or 0
