-- Hold a running request again in a new epoch, unchecked: it was admitted. Windows that have rolled over are skipped.
--
-- KEYS[1] meta   KEYS[2] journal   KEYS[3] account state   KEYS[4] key state
-- ARGV[1] epoch   ARGV[2] request id   ARGV[3] its entry H, written for this epoch
-- Reply: 0 held   1 another epoch   2 it has ended, or is held in this epoch already   3 state missing: install first

local epoch = tonumber(ARGV[1])
if not epoch_is(KEYS[1], epoch) then return 1 end
local known = parse_entry(redis.call('HGET', KEYS[2], ARGV[2]))
if known and (known.epoch == epoch or known.state ~= HELD) then return 2 end
local account, key = read_account(KEYS[3]), read_key(KEYS[4])
if not account or account.epoch ~= epoch or not key or key.epoch ~= epoch then return 3 end
local entry = parse_entry(ARGV[3])
local amounts = amounts_of(entry.input, entry.output, entry.cost)
-- It was admitted by a clock that may have been ahead of this server's: the account's time has been there.
account.now_s = math.max(account.now_s, floor(entry.at_ms / 1000))
local now_s = math.max(floor(now_ms / 1000), account.now_s)
account.held = account.held + entry.cost
account.running = account.running + 1
account.hold_version = account.hold_version + 1
key.running = key.running + 1
follow(account, entry.account_tags, entry.account_tag_count, entry.at_ms, now_s)
correct_counters(account, entry.account_tags, entry.account_tag_count, entry.at_ms, amounts)
follow(key, entry.key_tags, entry.key_tag_count, entry.at_ms, now_s)
correct_counters(key, entry.key_tags, entry.key_tag_count, entry.at_ms, amounts)
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
write_account(KEYS[3], account)
write_key(KEYS[4], key)
return 0
