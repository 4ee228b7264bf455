-- Forget debits that Postgres has.
--
-- KEYS[1] meta   KEYS[2] journal   KEYS[3..] account states, for corrections
-- ARGV[1] epoch   ARGV[2..] c26 request id, H place of its account in KEYS (0: not a correction), i8 xseq
-- A debit that is a correction stays until its account's state has that correction.
-- Reply: {1} another epoch; else {0, ids that must stay for now ...}

local epoch = tonumber(ARGV[1])
if not epoch_is(KEYS[1], epoch) then return {1} end
local replies = {0}

-- Answers whether an account's state has a correction.
local function has_applied(place, xseq)
  local account = read_state(KEYS[place])
  return account and account[EPOCH] == epoch and account[A_XSEQ] >= xseq
end

for first = 2, #ARGV, 1000 do -- Lua's stack bounds the arguments of a command
  local last = math.min(first + 999, #ARGV)
  local ids = {}
  for i = first, last do ids[#ids + 1] = string.sub(ARGV[i], 1, 26) end
  local entries = redis.call('HMGET', KEYS[2], unpack(ids))
  local done = {}
  for n = 1, #ids do
    local raw = entries[n]
    if raw and string.byte(raw, 2) == SETTLED then
      local place, xseq = unpack_from('<Hi8', ARGV[first + n - 1], 27)
      local _, of_epoch = entry_head(raw)
      if place > 0 and of_epoch == epoch and not has_applied(place, xseq) then
        replies[#replies + 1] = ids[n]
      else
        done[#done + 1] = ids[n]
      end
    end
  end
  if #done > 0 then redis.call('HDEL', KEYS[2], unpack(done)) end
end
return replies
