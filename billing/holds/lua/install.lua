-- Load an account, and a key of it, from one snapshot of Postgres into this epoch. One that is quarantined (see join.lua) is
-- not served yet: its version is 0.
--
-- KEYS[1] meta   KEYS[2] installed (hash: subject -> epoch, and "epoch" itself)   KEYS[3] account state   KEYS[4] key state (optional)
-- ARGV[1] epoch   ARGV[2] account id   ARGV[3] packed account state   ARGV[4] its xseq, I8 packed as i8
-- ARGV[5] key id, ARGV[6] packed key state (with KEYS[4])
-- Reply: 0 installed or there already; 1 another epoch; 2 it was installed in this epoch and is gone: Redis has lost
-- writes; 3 the account has seen a correction that the snapshot has not, or the other way about: take a new snapshot.

local epoch = tonumber(ARGV[1])
if not epoch_is(KEYS[1], epoch) then return 1 end

local function installed(subject)
  return tonumber(redis.call('HGET', KEYS[2], subject) or -1) == epoch
end

-- The epoch begins with a mark, so that a record of what was installed that is gone is not taken for an empty one.
local function lost(subject)
  return installed(subject) or not installed('epoch')
end

local account = read_state(KEYS[3])
if account and account[EPOCH] == epoch then
  if account[A_XSEQ] ~= unpack_from('<i8', ARGV[4]) then return 3 end
else
  if lost(ARGV[2]) then return 2 end
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[1])
  account = unpack_state(ARGV[3])
  if redis.call('HEXISTS', KEYS[2], 'back:' .. ARGV[2]) == 1 then account[A_VERSION] = 0 end
  write_account(KEYS[3], account)
end
if KEYS[4] then
  local key = read_state(KEYS[4])
  if not key or key[EPOCH] ~= epoch then
    if lost(ARGV[5]) then return 2 end
    redis.call('HSET', KEYS[2], ARGV[5], ARGV[1])
    redis.call('SET', KEYS[4], ARGV[6])
    -- Its counters stand in the windows of the snapshot's time: so does the account, lest a clock that steps back resets them.
    account = read_state(KEYS[3])
    account[A_NOW_S] = math.max(account[A_NOW_S], unpack_state(ARGV[3])[A_NOW_S])
    write_account(KEYS[3], account)
  end
end
return 0
