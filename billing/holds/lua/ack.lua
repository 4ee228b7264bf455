-- Forget debits that Postgres has.
--
-- KEYS[1] meta   KEYS[2] journal   KEYS[3..] account states, for corrections
-- ARGV[1] epoch   ARGV[2..] c26 request id, H place of its account in KEYS (0: not a correction), i8 xseq
-- A debit that is a correction stays until its account has been told of it.
-- Reply: {1} another epoch; else {0, ids that must stay for now ...}

local epoch = tonumber(ARGV[1])
if not epoch_is(KEYS[1], epoch) then return {1} end
local replies, done = {0}, {}
for i = 2, #ARGV do
  local id, place, xseq = unpack_from('<c26Hi8', ARGV[i])
  local raw = redis.call('HGET', KEYS[2], id)
  local entry = parse_entry(raw)
  if entry and entry.state == SETTLED then
    local account = place > 0 and entry.epoch == epoch and read_account(KEYS[place])
    if place > 0 and entry.epoch == epoch and (not account or account.xseq < xseq) then
      replies[#replies + 1] = id
    else
      done[#done + 1] = id
    end
  end
end
if #done > 0 then redis.call('HDEL', KEYS[2], unpack(done)) end
return replies
