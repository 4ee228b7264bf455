-- End a claimed hold once the account has the correction that Postgres has decided on for it.
--
-- KEYS[1] meta   KEYS[2] journal   KEYS[3] account state   KEYS[4] key state   KEYS[5] user state (where it counts for one)
-- ARGV[1] epoch   ARGV[2] request id   ARGV[3] xseq of its row (i8)
-- Reply: 0 ended or not there   1 another epoch   2 the account lacks that correction yet: try later

local epoch = tonumber(ARGV[1])
if not epoch_is(KEYS[1], epoch) then return 1 end
local raw = redis.call('HGET', KEYS[2], ARGV[2])
local entry = parse_entry(raw)
if not entry or entry.state ~= CLAIMED then return 0 end
if entry.epoch == epoch then
  local account = read_state(KEYS[3])
  if not account or account[EPOCH] ~= epoch or account[A_XSEQ] < unpack_from('<i8', ARGV[3]) then return 2 end
  local key = read_state(KEYS[4])
  if key and key[EPOCH] ~= epoch then key = nil end
  local user = KEYS[5] and read_state(KEYS[5]) or false
  if user and user[EPOCH] ~= epoch then user = false end
  end_hold(account, key, user, raw, 0, 0, 0, 0)
  write_account(KEYS[3], account)
  if key then write_key(KEYS[4], key) end
  if user then write_key(KEYS[5], user) end
end
redis.call('HDEL', KEYS[2], ARGV[2])
return 0
