-- A subject's principal has a newer version: keep the counters that its quotas still name, drop the others, add the
-- missing ones as pending. At a version that stands already counters are only added: two gateways that know different
-- quotas for it, as while a release rolls out, do not undo one another's. A pending counter counts from now on, open
-- holds included; what was settled before comes from Postgres by `fill`. A `fill` that never comes is not waited for:
-- after RESTART_MS another `adopt` starts anew, under its own token.
--
-- A journal may be large, so open holds are not looked for here. Where there may be some, the first call marks the new
-- counters as pending, which lets no further request in, and answers {3}; whoever called looks for the subject's open
-- holds, page by page, and calls again with their ids, under the same token. Only that call counts, and what it answers
-- is of its moment: a hold that has ended in between is in Postgres. It is refused, with {3} again, where they are not as
-- many as are running; the last attempt takes what it finds.
-- A counter whose window lies ahead of the account's time was taken there by a wrong clock, and begins anew as well.
--
-- A user of the account is a subject while it has limits. Its state is made here, and nowhere else: what it has used comes
-- from Postgres, as that of any new counter. Its version is the account's, which must be there first: from then on every
-- admission of a key of its names it. What it counted before it had limits without a break counts no more.
--
-- KEYS[1] meta   KEYS[2] journal   KEYS[3] account state   KEYS[4] installed   KEYS[5] key or user state (when the
-- subject is one)   KEYS[6..] states of the user's keys (when it is a user)
-- ARGV[1] epoch   ARGV[2] subject id   ARGV[3] version   ARGV[4] token (26 characters)
-- ARGV[5] 0 first call, 1 count, 2 count whatever is found   ARGV[6] ids of open holds, 26 characters each
-- ARGV[7] 'account', 'key' or 'user'   ARGV[8] the version from which on a user has had limits without a break; else 0
-- ARGV[9..] one counter each: I4 tag, model pattern ('' any; may end in '*'), feature (each B + bytes)
-- Reply: {1} another epoch   {2} not installed: nothing to adopt   {3} call again with the ids of open holds
--        {4} the account is quarantined (see join.lua): nothing was done   {5} the account has an older version: nothing was
--        done
--        {0, dseq, xseq, the account's time in ms, counters that are pending}

local RESTART_MS = 2000
local MOST_COUNTERS = 255
local FETCHED = 500 -- Lua's stack bounds the arguments of a command
local epoch, subject_id, version, stage = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
if not epoch_is(KEYS[1], epoch) then return {1} end
local account = read_state(KEYS[3])
if not account or account[EPOCH] ~= epoch then return {2} end
local kind, since = ARGV[7], tonumber(ARGV[8])
local subject, first, version_at, running_at = account, A_COUNTERS, A_VERSION, A_RUNNING
if kind ~= 'account' then
  subject, first, version_at, running_at = read_state(KEYS[5]), K_COUNTERS, K_VERSION, K_RUNNING
  if not subject or subject[EPOCH] ~= epoch then
    if kind == 'key' then return {2} end
    subject = {STATE_VERSION, epoch, 0, 0, 0}
  end
end
if kind == 'user' and account[A_VERSION] < version then return {5} end
if kind == 'account' and redis.call('HEXISTS', KEYS[4], 'back:' .. subject_id) == 1 then return {4} end
-- An older version that comes late changes nothing; nor does the same while its counters are being filled. How long that
-- has been goes by the server's clock: the account's time stands still while that is behind it.
local now_s = math.max(floor(now_ms / 1000), account[A_NOW_S])
local at_ms = math.max(now_ms, now_s * 1000)
local nothing = {0, account[A_DSEQ], account[A_XSEQ], at_ms, 0}
if version < subject[version_at] then return nothing end
local filling = redis.call('HGET', KEYS[4], 'pending:' .. subject_id)
local same = version == subject[version_at]
if stage > 0 then
  if not same or not filling or string.sub(filling, 1, 26) ~= ARGV[4] then return nothing end
elseif same and filling and math.abs(now_ms - tonumber(string.sub(filling, 28))) < RESTART_MS then
  return nothing
end

local ids = windows_at(now_s)
local counters, fresh, named = {}, {}, {}
local trusted = subject[version_at] >= since
for i = 9, #ARGV do
  local tag, pattern, feature, at
  tag, at = unpack_from('<I4', ARGV[i])
  pattern, at = read_text(ARGV[i], at)
  feature = read_text(ARGV[i], at)
  local known, pending = find_counter(subject, first, tag)
  named[tag] = true
  local n = #counters
  if known and trusted and not pending and subject[known + 1] <= ids[window_of(tag)] then
    counters[n + 1], counters[n + 2] = tag, subject[known + 1]
    counters[n + 3], counters[n + 4] = subject[known + 2], subject[known + 3]
  else
    counters[n + 1], counters[n + 2], counters[n + 3], counters[n + 4] = tag + PENDING, ids[window_of(tag)], 0, 0
    fresh[#fresh + 1] = {tag = tag, at = n + 3, pattern = pattern, feature = feature}
  end
end

if same then
  for at = first, #subject, 4 do
    local n = #counters
    if not named[subject[at] % PENDING] and n < 4 * MOST_COUNTERS then
      for place = 0, 3 do counters[n + 1 + place] = subject[at + place] end
    end
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

-- An open hold is part of the new counters: count it, and answer its entry with a note that its end must correct them.
-- Nil for what is none of the subject's.
local function count_open_hold(raw)
  local entry = parse_entry(raw)
  if not entry or entry.state == SETTLED or entry.epoch ~= epoch then return nil end
  if kind == 'account' and entry.account_id ~= subject_id or kind == 'key' and entry.key_id ~= subject_id then return nil end
  if kind == 'user' then entry.user_tags = entry.user_tags or {} end
  local amounts = amounts_of(0, entry.input, entry.output, entry.cost)
  local then_ids = windows_at(floor(entry.at_ms / 1000))
  local tags = entry[kind .. '_tags']
  for _, counter in ipairs(fresh) do
    if matches(counter, entry) then
      if then_ids[window_of(counter.tag)] == ids[window_of(counter.tag)] then
        local metric = metric_of(counter.tag) + 1
        counters[counter.at] = counters[counter.at] + REQUEST[metric]
        counters[counter.at + 1] = counters[counter.at + 1] + amounts[metric]
      end
      if not has_tag(tags, counter.tag) then tags[#tags + 1] = counter.tag end
    end
  end
  if kind == 'user' and #tags == 0 then entry.user_tags = nil end
  return retagged(raw, entry)
end

local function mark_pending()
  redis.call('HSET', KEYS[4], 'pending:' .. subject_id, ARGV[4] .. ':' .. string.format('%.0f', now_ms))
end

local running = subject[running_at]
if kind == 'user' then
  for place = 6, #fresh > 0 and #KEYS or 0 do
    local key = read_state(KEYS[place])
    if key and key[EPOCH] == epoch then running = running + key[K_RUNNING] end
  end
end
local open_holds = #fresh > 0 and running > 0
if stage > 0 and open_holds then
  local noted = {}
  for from = 1, #ARGV[6], 26 * FETCHED do
    local some = {}
    for at = from, math.min(from + 26 * FETCHED, #ARGV[6]) - 1, 26 do
      some[#some + 1] = string.sub(ARGV[6], at, at + 25)
    end
    for n, raw in ipairs(redis.call('HMGET', KEYS[2], unpack(some))) do
      local entry = count_open_hold(raw)
      if entry then noted[#noted + 1], noted[#noted + 2] = some[n], entry end
    end
  end
  if stage == 1 and #noted / 2 ~= running then
    mark_pending()
    return {3}
  end
  for from = 1, #noted, 2 * FETCHED do
    redis.call('HSET', KEYS[2], unpack(noted, from, math.min(from + 2 * FETCHED - 1, #noted)))
  end
end

subject[version_at] = version
for place = #subject, first, -1 do subject[place] = nil end
for place = 1, #counters do subject[first + place - 1] = counters[place] end
-- Counters begin in the windows of this time: the account's stays there, lest a clock that steps back resets them.
account[A_NOW_S] = now_s
if #fresh > 0 then mark_pending() end
write_account(KEYS[3], account)
if kind ~= 'account' then write_key(KEYS[5], subject) end
if stage == 0 and open_holds then return {3} end
return {0, account[A_DSEQ], account[A_XSEQ], at_ms, #fresh}
