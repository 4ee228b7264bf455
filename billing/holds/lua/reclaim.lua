-- Take a claimed hold back: its gateway lives, and the ledger has decided nothing about it.
--
-- KEYS[1] meta   KEYS[2] journal
-- ARGV[1] epoch   ARGV[2] request id   ARGV[3] not_after_ms: carried out late, it might undo another gateway's claim
-- Reply: 0 held again   1 another epoch   2 not claimed   3 too late

if not epoch_is(KEYS[1], tonumber(ARGV[1])) then return 1 end
if now_ms > tonumber(ARGV[3]) then return 3 end
local raw = redis.call('HGET', KEYS[2], ARGV[2])
local entry = parse_entry(raw)
if not entry or entry.state ~= CLAIMED then return 2 end
redis.call('HSET', KEYS[2], ARGV[2], string.sub(raw, 1, 1) .. string.char(HELD) .. string.sub(raw, 3))
return 0
