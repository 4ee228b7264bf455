-- Apply corrections to an account, in order and each once: by compare-and-set on the number of the last one.
--
-- KEYS[1] meta   KEYS[2] journal   KEYS[3] account state   KEYS[4..] states of the keys and users that the corrections name
-- ARGV[1] epoch   ARGV[2] xseq from which these rows go on (i8)
-- ARGV[3..] i8 xseq, i8 change of the balance, c26 request id (blank: none), H and H places of key and user in KEYS
--           (0: none), i8 admitted_at_ms, i8 requests, i8 input tokens, i8 output tokens, i8 cost,
--           count B + account tags I4, count B + key tags I4, count B + user tags I4
-- A debit whose entry here is S of this epoch was counted by settle: its money does not move again. A hold of this epoch
-- that a newer release has written is for that one's gateways to end: the rows from there on wait for them.
-- Reply: {1} another epoch   {2} not installed   {0, the account's xseq now}

local epoch = tonumber(ARGV[1])
if not epoch_is(KEYS[1], epoch) then return {1} end
local account = read_state(KEYS[3])
if not account or account[EPOCH] ~= epoch then return {2} end
if account[A_XSEQ] ~= unpack_from('<i8', ARGV[2]) then return {0, account[A_XSEQ]} end

-- Counters may follow to this time: so does the account's, lest a clock that steps back resets them.
account[A_NOW_S] = math.max(floor(now_ms / 1000), account[A_NOW_S])
local now_s = account[A_NOW_S]
local keys = {} -- and users
local function key_at(place)
  if place == 0 then return nil end
  if keys[place] == nil then
    local key = read_state(KEYS[place])
    keys[place] = key and key[EPOCH] == epoch and key or false
  end
  return keys[place] or nil
end

for i = 3, #ARGV do
  local xseq, delta, id, key_place, user_place, at_ms, requests, input, output, cost, at =
    unpack_from('<i8i8c26HHi8i8i8i8i8', ARGV[i])
  local raw = id ~= string.rep(' ', 26) and redis.call('HGET', KEYS[2], id)
  local entry = parse_entry(raw)
  local state, of_epoch = entry_head(raw)
  local here = of_epoch == epoch
  if here and not entry and state ~= SETTLED and string.byte(raw, 1) > OF_USER then break end
  if not (here and state == SETTLED) then
    local key, user = key_at(key_place), key_at(user_place) or false
    if not (here and entry and end_hold(account, key, user, raw, requests, input, output, cost)) then
      local spent = amounts_of(requests, input, output, cost)
      at = count_in(account, A_COUNTERS, ARGV[i], at, at_ms, now_s, spent, NOTHING)
      if key then count_in(key, K_COUNTERS, ARGV[i], at, at_ms, now_s, spent, NOTHING) end
      at = at + 1 + 4 * string.byte(ARGV[i], at)
      if user then count_in(user, K_COUNTERS, ARGV[i], at, at_ms, now_s, spent, NOTHING) end
    end
    if entry and entry.state ~= SETTLED then redis.call('HDEL', KEYS[2], id) end
    account[A_BALANCE] = account[A_BALANCE] + delta
  end
  account[A_XSEQ] = xseq
end
write_account(KEYS[3], account)
for place, key in pairs(keys) do
  if key then write_key(KEYS[place], key) end
end
return {0, account[A_XSEQ]}
