-- Give pending counters their base: what was settled in their window before `adopt` began to count.
--
-- KEYS[1] meta   KEYS[2] installed   KEYS[3] the subject's state
-- ARGV[1] epoch   ARGV[2] subject id   ARGV[3] token of the `adopt` that began   ARGV[4] 'account', 'key' or 'user'
-- ARGV[5] I4 tag, I4 window id, i8 base for each counter, one after another
-- Reply: 0 filled   1 another epoch, another token, or nothing there: ask `admit` again

if not epoch_is(KEYS[1], tonumber(ARGV[1])) then return 1 end
if string.sub(redis.call('HGET', KEYS[2], 'pending:' .. ARGV[2]) or '', 1, 26) ~= ARGV[3] then return 1 end
local is_key = ARGV[4] ~= 'account'
local subject = read_state(KEYS[3])
if not subject or subject[EPOCH] ~= tonumber(ARGV[1]) then return 1 end
local at = 1
while at <= #ARGV[5] do
  local tag, window, base
  tag, window, base, at = unpack_from('<I4I4i8', ARGV[5], at)
  local place, pending = find_counter(subject, is_key and K_COUNTERS or A_COUNTERS, tag)
  if place and pending then
    subject[place] = tag
    if subject[place + 1] == window then subject[place + 2] = subject[place + 2] + base end
  end
end
redis.call('HDEL', KEYS[2], 'pending:' .. ARGV[2])
if is_key then write_key(KEYS[3], subject) else write_account(KEYS[3], subject) end
return 0
