-- A subject's principal has a newer version: keep the counters that its quotas still name, drop the others, add the
-- missing ones as pending. A pending counter counts from now on, open holds included; what was settled before comes
-- from Postgres by `fill`. A `fill` that never comes is not waited for: after RESTART_MS another `adopt` starts anew, under its own token.
-- A counter whose window lies ahead of the account's time was taken there by a wrong clock, and begins anew as well.
--
-- KEYS[1] meta   KEYS[2] journal   KEYS[3] account state   KEYS[4] installed   KEYS[5] key state (when the subject is a key)
-- ARGV[1] epoch   ARGV[2] subject id   ARGV[3] version   ARGV[4] token (26 characters)
-- ARGV[5..] one counter each: I4 tag, model pattern ('' any; may end in '*'), feature (each B + bytes)
-- Reply: {1} another epoch   {2} not installed: nothing to adopt
--        {0, dseq, xseq, the account's time in ms, counters that are pending}

local RESTART_MS = 2000
local epoch, subject_id, version = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
if not epoch_is(KEYS[1], epoch) then return {1} end
local account = read_state(KEYS[3])
if not account or account[EPOCH] ~= epoch then return {2} end
local is_key = KEYS[5] ~= nil
local subject, first, version_at, running_at = account, A_COUNTERS, A_VERSION, A_RUNNING
if is_key then
  subject, first, version_at, running_at = read_state(KEYS[5]), K_COUNTERS, K_VERSION, K_RUNNING
  if not subject or subject[EPOCH] ~= epoch then return {2} end
end
-- An older version that comes late changes nothing; nor does the same while its counters are being filled. How long that
-- has been goes by the server's clock: the account's time stands still while that is behind it.
local now_s = math.max(floor(now_ms / 1000), account[A_NOW_S])
local at_ms = math.max(now_ms, now_s * 1000)
local nothing = {0, account[A_DSEQ], account[A_XSEQ], at_ms, 0}
if version < subject[version_at] then return nothing end
local filling = redis.call('HGET', KEYS[4], 'pending:' .. subject_id)
if version == subject[version_at] and filling and math.abs(now_ms - tonumber(string.sub(filling, 28))) < RESTART_MS then
  return nothing
end

local ids = windows_at(now_s)
local counters, fresh = {}, {}
for i = 5, #ARGV do
  local tag, pattern, feature, at
  tag, at = unpack_from('<I4', ARGV[i])
  pattern, at = read_text(ARGV[i], at)
  feature = read_text(ARGV[i], at)
  local known, pending = find_counter(subject, first, tag)
  local n = #counters
  if known and not pending and subject[known + 1] <= ids[window_of(tag)] then
    counters[n + 1], counters[n + 2], counters[n + 3] = tag, subject[known + 1], subject[known + 2]
  else
    counters[n + 1], counters[n + 2], counters[n + 3] = tag + PENDING, ids[window_of(tag)], 0
    fresh[#fresh + 1] = {tag = tag, at = n + 3, pattern = pattern, feature = feature}
  end
end

local function matches(counter, entry)
  if counter.feature ~= entry.feature then return false end
  if counter.pattern == '' or counter.pattern == entry.model then return true end
  local prefix = string.sub(counter.pattern, 1, -2)
  return string.sub(counter.pattern, -1) == '*' and string.sub(entry.model, 1, #prefix) == prefix
end

local function has_tag(tags, tag)
  for _, known in ipairs(tags) do
    if known == tag then return true end
  end
  return false
end

-- An open hold is part of the new counters: count it, and note in its entry that its end must correct them. Most of a
-- large journal is settled entries: their state is in the second byte.
local function count_open_hold(id, raw)
  if string.byte(raw, 2) == SETTLED then return end
  local entry = parse_entry(raw)
  if entry.epoch ~= epoch then return end
  if (is_key and entry.key_id or entry.account_id) ~= subject_id then return end
  local amounts = amounts_of(1, entry.input, entry.output, entry.cost)
  local then_ids = windows_at(floor(entry.at_ms / 1000))
  local tags = is_key and entry.key_tags or entry.account_tags
  for _, counter in ipairs(fresh) do
    if matches(counter, entry) then
      if then_ids[window_of(counter.tag)] == ids[window_of(counter.tag)] then
        counters[counter.at] = counters[counter.at] + amounts[metric_of(counter.tag) + 1]
      end
      if not has_tag(tags, counter.tag) then tags[#tags + 1] = counter.tag end
    end
  end
  redis.call('HSET', KEYS[2], id, retagged(raw, entry))
end

if #fresh > 0 and subject[running_at] > 0 then
  local all = redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do count_open_hold(all[i], all[i + 1]) end
end

subject[version_at] = version
for place = #subject, first, -1 do subject[place] = nil end
for place = 1, #counters do subject[first + place - 1] = counters[place] end
-- Counters begin in the windows of this time: the account's stays there, lest a clock that steps back resets them.
account[A_NOW_S] = now_s
if #fresh > 0 then
  redis.call('HSET', KEYS[4], 'pending:' .. subject_id, ARGV[4] .. ':' .. string.format('%.0f', now_ms))
end
write_account(KEYS[3], account)
if is_key then write_key(KEYS[5], subject) end
return {0, account[A_DSEQ], account[A_XSEQ], at_ms, #fresh}
