-- Hold a running request again in a new epoch, unchecked: it was admitted. Windows that have rolled over are skipped.
--
-- KEYS[1] meta   KEYS[2] journal   KEYS[3] account state   KEYS[4] key state   KEYS[5] user state (where it counts for one)
-- ARGV[1] epoch   ARGV[2] request id   ARGV[3] its entry H, written for this epoch
-- A user that is not loaded in this epoch is given its open holds when it is: `adopt`.
-- Reply: 0 held   1 another epoch   2 it has ended, or is held in this epoch already   3 state missing: install first

local epoch = tonumber(ARGV[1])
if not epoch_is(KEYS[1], epoch) then return 1 end
local known = parse_entry(redis.call('HGET', KEYS[2], ARGV[2]))
if known and (known.epoch == epoch or known.state ~= HELD) then return 2 end
local account, key = read_state(KEYS[3]), read_state(KEYS[4])
if not account or account[EPOCH] ~= epoch or not key or key[EPOCH] ~= epoch then return 3 end
local entry = parse_entry(ARGV[3])
local amounts = amounts_of(0, entry.input, entry.output, entry.cost)
-- It was admitted by a clock that may have been ahead of this server's: the account's time has been there.
account[A_NOW_S] = math.max(account[A_NOW_S], floor(entry.at_ms / 1000))
local now_s = math.max(floor(now_ms / 1000), account[A_NOW_S])
account[A_HELD] = account[A_HELD] + entry.cost
account[A_RUNNING] = account[A_RUNNING] + 1
account[A_HOLD_VERSION] = account[A_HOLD_VERSION] + 1
key[K_RUNNING] = key[K_RUNNING] + 1
local key_tags_at = count_in(account, A_COUNTERS, ARGV[3], entry.tags_at, entry.at_ms, now_s, REQUEST, amounts)
local user_tags_at = count_in(key, K_COUNTERS, ARGV[3], key_tags_at, entry.at_ms, now_s, REQUEST, amounts)
local user = KEYS[5] and read_state(KEYS[5])
if user and user[EPOCH] == epoch and entry.user_tags then
  count_in(user, K_COUNTERS, ARGV[3], user_tags_at, entry.at_ms, now_s, REQUEST, amounts)
  write_key(KEYS[5], user)
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
write_account(KEYS[3], account)
write_key(KEYS[4], key)
return 0
