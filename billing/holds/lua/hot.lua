-- Admissions, settlements and voids of one turn of a gateway's event loop, all of one partition, each item by itself.
--
-- KEYS[1] meta (hash: epoch, open)   KEYS[2] journal (hash: request id -> entry)
-- KEYS[3..] account and key states, named by an item by their place in KEYS, from 1
-- ARGV[1] I4 epoch, I4 max_unsettled (entries)
-- ARGV[2..] one item each:
--   admit   B 1, c26 request id, H account, H key, I4 account version, I4 key version, i8 credit limit,
--           i8 input cost, i8 cost of one output token of every choice, i8 input tokens, I4 choices,
--           I4 least and I4 most output tokens a choice, i8 not_after_ms, I4 and I4 most running (account, key; 0: any),
--           limits of the account, limits of the key (each: count B, then tag I4, limit i8), H + names, payload
--   settle  B 2, c26 request id, H account, H key, i8 cost, i8 input tokens, i8 output tokens, payload
--   void    B 3, c26 request id, H account, H key
-- Amounts are nano-USD, times Unix milliseconds. Nothing is written for an item that is refused.
--
-- Reply: {} when the epoch is another one (nothing was done), else one array an item:
--   {0, output tokens granted, admitted_at_ms, available, used of each limit with a minute window ...}   admitted
--   {0, dseq, available}   settled        {0, available}   voided ({0} where it was held in an older epoch)
--   {1, available, required}                                       the balance does not cover the hold
--   {2, at_ms, {subject (0 account, 1 key), place, used, requested} ...}   exhausted windows, flat, places from 0
--   {3, subject}  too many running          {4} state missing      {5} versions here are newer: reload
--   {6} versions here are older: push       {7} a counter waits for its base
--   {8} closed   {9} after not_after_ms   {10} max_unsettled   {11} no such hold in this epoch

local OK, BALANCE, QUOTA, CONCURRENCY, MISSING, RELOAD, PUSH, WAITING, CLOSED, LATE, FULL, GONE =
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11

local epoch, max_unsettled = unpack_from('<I4I4', ARGV[1])
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'open')
if tonumber(meta[1] or -1) ~= epoch then return {} end
local open = meta[2] == '1'
local room = open and max_unsettled - redis.call('HLEN', KEYS[2]) or 0

-- States and entries are read once a batch and written once at its end.
local states, changed_accounts, changed_keys, entries = {}, {}, {}, {}

local function state_of(place, read)
  local state = states[place]
  if state == nil then
    state = read(KEYS[place]) or false
    if state and state.epoch ~= epoch then state = false end
    states[place] = state
  end
  return state
end

local function entry_of(id)
  local raw = entries[id]
  if raw == nil then raw = redis.call('HGET', KEYS[2], id) end
  local entry = parse_entry(raw)
  if entry and entry.state == HELD and entry.epoch == epoch then return entry end
  return nil
end

-- The bound of every amount: beyond it doubles are not exact, so that no more is ever held.
local MOST = 9007199254740991

-- floor(a / u) of exact integers: the double quotient can only be too high.
local function quotient(a, u)
  local t = floor(a / u)
  if t * u > a then t = t - 1 end
  return t
end

-- Check one subject's limits; answers how many output tokens a choice they leave, or nil when a counter is not usable.
-- Exhausted ones are added to `failed`.
local function check_limits(subject, code, limits, count, ids, need, most, failed)
  for i = 1, count do
    local tag, limit = limits[i * 2 - 1], limits[i * 2]
    local at, pending = find_counter(subject, tag, i * 3 - 2)
    if not at or pending then return nil end
    local used = subject.counters[at + 1] == ids[window_of(tag)] and subject.counters[at + 2] or 0
    local metric = metric_of(tag)
    local left = limit - used
    if left < need.least[metric] then
      local n = #failed
      failed[n + 1], failed[n + 2], failed[n + 3], failed[n + 4] = code, i - 1, used, need.least[metric]
    else
      local per_token = need.per_token[metric]
      if per_token > 0 then most = math.min(most, quotient(left - need.fixed[metric], per_token)) end
    end
  end
  return most
end

local function raise_counters(subject, limits, count, ids, amounts, minute)
  for i = 1, count do
    local tag = limits[i * 2 - 1]
    local at = find_counter(subject, tag, i * 3 - 2)
    local window = window_of(tag)
    local used = subject.counters[at + 1] == ids[window] and subject.counters[at + 2] or 0
    used = used + amounts[metric_of(tag)]
    subject.counters[at + 1] = ids[window]
    subject.counters[at + 2] = used
    if window == 0 then minute[#minute + 1] = used end
  end
end

local function pack_tags(limits, count)
  local tags = {}
  for i = 1, count do tags[i] = limits[i * 2 - 1] end
  return pack(numbers('I4', count), unpack(tags, 1, count))
end

local function read_limits(item, at)
  local count, start = unpack_from('<B', item, at)
  local limits = {unpack_from(numbers('I4i8', count), item, start)}
  return limits, count, limits[count * 2 + 1]
end

local function admit(item, id, account_place, key_place, at)
  local account_version, key_version, credit, input_cost, unit, input, choices, least, most, not_after, max_account, max_key
  account_version, key_version, credit, input_cost, unit, input, choices, least, most, not_after, max_account, max_key, at =
    unpack_from('<I4I4i8i8i8i8I4I4I4i8I4I4', item, at)
  if not open then return {CLOSED} end
  if now_ms > not_after then return {LATE} end
  local account, key = state_of(account_place, read_account), state_of(key_place, read_key)
  if not account or not key then return {MISSING} end
  if account.principal_version > account_version or key.principal_version > key_version then return {RELOAD} end
  if account.principal_version < account_version or key.principal_version < key_version then return {PUSH} end
  if room <= 0 then return {FULL} end

  local account_limits, account_count, key_limits, key_count, names
  account_limits, account_count, at = read_limits(item, at)
  key_limits, key_count, at = read_limits(item, at)
  names, at = unpack_from('<Hc0', item, at)

  local available = math.min(account.balance + credit, MOST) - account.held
  local required = input_cost + least * unit
  if available < required then return {BALANCE, available, required} end
  if unit > 0 then most = math.min(most, quotient(available - input_cost, unit)) end

  local now_s = math.max(floor(now_ms / 1000), account.now_s)
  local ids = windows_at(now_s)
  local need = {
    least = amounts_of(input, choices * least, required),
    fixed = {[0] = 0, input, 0, 0, input_cost},
    per_token = {[0] = 0, choices, 0, choices, unit},
  }
  local failed = {}
  most = check_limits(account, 0, account_limits, account_count, ids, need, most, failed)
  if not most then return {WAITING} end
  most = check_limits(key, 1, key_limits, key_count, ids, need, most, failed)
  if not most then return {WAITING} end
  if #failed > 0 then return {QUOTA, now_s * 1000, unpack(failed)} end
  if max_account > 0 and account.running >= max_account then return {CONCURRENCY, 0} end
  if max_key > 0 and key.running >= max_key then return {CONCURRENCY, 1} end

  local cost, output = input_cost + most * unit, choices * most
  local amounts, minute = amounts_of(input, output, cost), {}
  local at_ms = math.max(now_ms, now_s * 1000)
  raise_counters(account, account_limits, account_count, ids, amounts, minute)
  raise_counters(key, key_limits, key_count, ids, amounts, minute)
  account.now_s = now_s
  account.held = account.held + cost
  account.running = account.running + 1
  account.hold_version = account.hold_version + 1
  key.running = key.running + 1
  changed_accounts[account_place], changed_keys[key_place] = account, key
  entries[id] = pack('<BBI4i8i8i8i8', VERSION, HELD, epoch, at_ms, cost, input, output) .. names
    .. pack('<B', account_count) .. pack_tags(account_limits, account_count)
    .. pack('<B', key_count) .. pack_tags(key_limits, key_count) .. string.sub(item, at)
  room = room - 1
  return {OK, most, at_ms, available - cost, unpack(minute)}
end

local function settle(item, id, account_place, key_place, at)
  local cost, input, output
  cost, input, output, at = unpack_from('<i8i8i8', item, at)
  local entry = entry_of(id)
  local account, key = state_of(account_place, read_account), state_of(key_place, read_key)
  if not entry or not account or not key then return {GONE} end
  end_hold(account, key, entry, amounts_of(input, output, cost))
  account.balance = account.balance - cost
  account.dseq = account.dseq + 1
  changed_accounts[account_place], changed_keys[key_place] = account, key
  entries[id] = pack('<BBI4i8i8', VERSION, SETTLED, epoch, now_ms, account.dseq)
    .. pack('<Bc0', #entry.account_id, entry.account_id) .. string.sub(item, at)
  return {OK, account.dseq, account.balance - account.held}
end

-- A hold of an older epoch, which was not held again, is in no state: its entry alone is left.
local function older_hold(id)
  if entries[id] ~= nil then return false end
  local entry = parse_entry(redis.call('HGET', KEYS[2], id))
  return entry and entry.state == HELD and entry.epoch < epoch
end

local function void(_, id, account_place, key_place)
  if older_hold(id) then
    entries[id] = false
    room = room + 1
    return {OK}
  end
  local entry = entry_of(id)
  local account, key = state_of(account_place, read_account), state_of(key_place, read_key)
  if not entry or not account or not key then return {GONE} end
  end_hold(account, key, entry, nil)
  changed_accounts[account_place], changed_keys[key_place] = account, key
  entries[id] = false
  room = room + 1
  return {OK, account.balance - account.held}
end

local operations = {admit, settle, void}
local replies = {}
for i = 2, #ARGV do
  local operation, id, account_place, key_place, at = unpack_from('<Bc26HH', ARGV[i])
  replies[i - 1] = operations[operation](ARGV[i], id, account_place, key_place, at)
end

for place, account in pairs(changed_accounts) do write_account(KEYS[place], account) end
for place, key in pairs(changed_keys) do write_key(KEYS[place], key) end
local set, deleted = {}, {}
for id, raw in pairs(entries) do
  if raw then set[#set + 1], set[#set + 2] = id, raw else deleted[#deleted + 1] = id end
end
if #set > 0 then redis.call('HSET', KEYS[2], unpack(set)) end
if #deleted > 0 then redis.call('HDEL', KEYS[2], unpack(deleted)) end
return replies
