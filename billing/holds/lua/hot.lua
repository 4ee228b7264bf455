-- Admissions, settlements and voids of one turn of a gateway's event loop, all of one partition, each item by itself.
--
-- KEYS[1] meta (hash: epoch, open)   KEYS[2] journal (hash: request id -> entry)
-- KEYS[3..] account, key and user states, named by an item by their place in KEYS, from 1
-- ARGV[1] I4 epoch, I4 max_unsettled (entries), I4 elastic share in millionths (1 to 1,000,000), I4 elastic output tokens
-- ARGV[2..] one item each:
--   admit   B 1, c26 request id, H account, H key, I4 account version, I4 key version, i8 credit limit,
--           i8 input cost, i8 cost of one output token of every choice, i8 input tokens, I4 choices,
--           I4 least and I4 most output tokens a choice, i8 not_after_ms, I4 and I4 most running (account, key; 0: any),
--           B rungs, then for each i8 input tokens, i8 input cost
--           (where least is below most the hold is elastic: it takes the elastic share of the output tokens that are free
--           in the tightest window or balance, or the elastic output tokens where that is more, so many being free;
--           each rung is dearer input, in the place of the first: the dearest is held that leaves room for the elastic
--           output tokens, or for the most where that is less, and adds no more to the first input than the elastic share
--           of what these two leave free; the first input needs room for the least alone)
--           limits of the account, limits of the key (each: count B, then tag I4, limit i8), H + names, payload
--   settle  B 2, c26 request id, H account, H key, i8 cost, i8 input tokens, i8 output tokens, payload
--   void    B 3, c26 request id, H account, H key
--   The same that count for a user, too: B 4, 5 and 6, with H user behind H key, and limits of the user behind the key's.
-- Amounts are nano-USD, times Unix milliseconds. Nothing is written for an item that is refused.
--
-- Reply: {} when the epoch is another one (nothing was done), else one array an item:
--   {0, output tokens granted, admitted_at_ms, available, rung (0: the first input), used and held of each limit with a
--   minute window ...}   admitted
--   {0, dseq, available}   settled        {0, available}   voided ({0} where it was held in an older epoch)
--   {1, available, required, held}                                 the balance does not cover the hold
--   {2, at_ms, {subject (0 account, 1 key, 2 user), place, used, held, requested} ...}   exhausted windows, flat, places from 0
--   A refusal of 1 to 3 that ends with running holds is answered only where no refusal would stand without them.
--   {3, subject}  too many running          {4} state missing      {5} versions here are newer: reload
--   {6} versions here are older: push
--   {7} a counter waits for its base, or the account's time or a window is ahead of this server's clock: retime,
--   adopt
--   {8} closed   {9} after not_after_ms   {10} max_unsettled
--   {11, 1: another entry is there, 0: none}   no such hold in this epoch, or it counts for a user whom the item does not name
--   {12} the user's state is missing, of other limits than the request's, or waits: adopt it
--
-- Everything is read once, before the first item, and written once, after the last; items work on lists and entries in
-- between, and a refusal comes before an item has changed any. See _state.lua for why places and codes are written out.

-- floor(a / u) of exact integers: the double quotient can only be too high.
local function quotient(a, u)
  local t = math.floor(a / u)
  if t * u > a then t = t - 1 end
  return t
end

-- Limits from their bytes, which many keys share: {tag, limit, ..., the tags packed as an entry has them}.
local function read_limits(memo, bytes)
  local limits = memo[bytes]
  if not limits then
    local rep, count = string.rep, #bytes / 12
    limits = {struct.unpack('<' .. rep('I4i8', count), bytes)}
    limits[#limits] = struct.pack('<B' .. rep('I4', count), count,
      struct.unpack('<' .. rep('I4xxxxxxxx', count), bytes))
    memo[bytes] = limits
  end
  return limits
end

-- Check a subject's limits on what a request needs, by metric code + 1: `fixed` and `rate` for a token of every choice,
-- of which there are from `least` to `most`. Answers how many the limits leave, or nil when a counter is not usable;
-- exhausted ones join `failed`, whose `spent` says that one is so without what is held.
local function check_limits(state, first, subject, limits, ids, fixed, rates, least, most, failed)
  local at = first
  for i = 1, #limits - 1, 2 do
    local tag, pending = limits[i], false
    if state[at] ~= tag then at, pending = find_counter(state, first, tag) end
    if not at or pending then return nil end
    local window = tag % 8
    local metric = (tag - window) / 8 % 8 + 1
    local id, used, held = state[at + 1], 0, 0
    if id == ids[window] then used, held = state[at + 2], state[at + 3] elseif id > ids[window] then return nil end
    local left, rate = limits[i + 1] - used - held - fixed[metric], rates[metric]
    if left < rate * least then
      local n = #failed
      failed[n + 1], failed[n + 2], failed[n + 3], failed[n + 4] = subject, (i - 1) / 2, used, held
      failed[n + 5] = fixed[metric] + rate * least
      if left + held < rate * least then failed.spent = true end
    elseif left < rate * most then
      most = quotient(left, rate)
    end
    at = at + 4
  end
  return most
end

-- Hold these amounts in the counters of limits that were checked, and use the request; what those of minutes have used
-- and held then joins `reply`.
local function raise_counters(state, first, limits, ids, amounts, reply)
  local at = first
  for i = 1, #limits - 1, 2 do
    local tag = limits[i]
    if state[at] ~= tag then at = find_counter(state, first, tag) end
    local window = tag % 8
    local metric = (tag - window) / 8 % 8
    local id, place = ids[window], metric == 0 and at + 2 or at + 3 -- used or held
    if state[at + 1] ~= id then state[at + 1], state[at + 2], state[at + 3] = id, 0, 0 end
    state[place] = state[place] + amounts[metric + 1]
    if window == 0 then reply[#reply + 1] = state[at + 2] + state[at + 3] end
    at = at + 4
  end
end

-- Answers the reply, and the entry H. `user` is nil where the item names none, and false where it is not loaded.
local function admit(batch, item, at, account, key, user)
  local account_version, key_version, credit, input_cost, unit, input, choices, least, most, not_after, max_account,
    max_key, rung, rungs_at = struct.unpack('<I4I4i8i8i8i8I4I4I4i8I4I4B', item, at)
  local now_ms = batch.now_ms
  if not batch.open then return {8} end
  if now_ms > not_after then return {9} end
  if not account or not key then return {4} end
  -- 8 and 3: principal_version
  if account[8] > account_version or key[3] > key_version then return {5} end
  if account[8] < account_version or key[3] < key_version then return {6} end
  if user ~= nil and (not user or user[3] ~= account_version) then return {12} end
  if batch.room <= 0 then return {10} end

  -- 3: balance, 4: held. What is beyond 2^53 - 1 does not count: doubles are not exact there, so no more is ever held.
  local all, held = math.min(account[3] + credit, 9007199254740991), account[4]
  local available, required, floor = all - held, input_cost + least * unit, math.floor
  if all < required then return {1, available, required, held} end

  local byte, sub = string.byte, string.sub
  local limits_at = rungs_at + rung * 16 + 1
  local key_limits_at = limits_at + byte(item, limits_at - 1) * 12 + 1
  local names_at = key_limits_at + byte(item, key_limits_at - 1) * 12 + 2
  local account_limits = read_limits(batch.limits, sub(item, limits_at, key_limits_at - 2))
  local key_limits, user_limits = read_limits(batch.limits, sub(item, key_limits_at, names_at - 3)), nil
  if user then
    local user_limits_at = names_at - 1
    names_at = user_limits_at + byte(item, user_limits_at - 1) * 12 + 2
    user_limits = read_limits(batch.limits, sub(item, user_limits_at, names_at - 3))
  end
  local now_s, known_s = floor(now_ms / 1000), account[9] -- its now_s
  if known_s > now_s then
    if known_s > now_s + 3600 then return {7} end -- AHEAD_S
    now_s = known_s
  end
  local ids, rates, share = windows_at(now_s), {0, choices, 0, choices, unit}, batch.share

  -- The rungs from the dearest on, and the first input in the end: as `needed` output tokens of every choice fit beside
  -- it. What a rung adds to the first input must also stay within the elastic share: it has to fit as if it were so much
  -- more that the share of it is what it adds. `room`: output tokens that are free beside the rung that is chosen,
  -- counted up to where they are enough for `most`.
  local first_input, first_cost, chosen, room, short, failed = input, input_cost, rung == 0
  while true do
    local needed = least
    if rung > 0 then
      input, input_cost = struct.unpack('<i8i8', item, rungs_at + rung * 16 - 16)
      needed = math.max(least, math.min(batch.first, most))
    else
      input, input_cost = first_input, first_cost
    end
    local asked, asked_cost = input, input_cost
    if not chosen then
      asked = first_input + math.ceil((input - first_input) * 1000000 / share)
      asked_cost = first_cost + math.ceil((input_cost - first_cost) * 1000000 / share)
    end
    room, short, failed = most, available < asked_cost + needed * unit, {}
    if least < most then room = floor(most * 1000000 / share) + 2 end
    if not short and available - asked_cost < room * unit then room = quotient(available - asked_cost, unit) end
    local fixed = {1, asked, asked, 0, asked_cost}
    room = check_limits(account, 12, 0, account_limits, ids, fixed, rates, needed, room, failed)
    room = room and check_limits(key, 6, 1, key_limits, ids, fixed, rates, needed, room, failed)
    if not room then return {7} end
    if user_limits then
      room = check_limits(user, 6, 2, user_limits, ids, fixed, rates, needed, room, failed)
      if not room then return {12} end
    end
    if chosen then break end
    if short or #failed > 0 then rung = rung - 1 end
    chosen = rung == 0 or not (short or #failed > 0)
  end
  if #failed > 0 and (failed.spent or not short) then return {2, now_s * 1000, unpack(failed)} end
  if short then return {1, available, required, held} end
  -- 10 and 4: running
  if max_account > 0 and account[10] >= max_account then return {3, 0} end
  if max_key > 0 and key[4] >= max_key then return {3, 1} end

  if least < most then
    local first = batch.first < room and batch.first or room
    local part = quotient(room * share, 1000000)
    if part < first then part = first end
    if part < least then part = least end
    if part < most then most = part end
  end
  local cost, output, at_ms = input_cost + most * unit, choices * most, math.max(now_ms, now_s * 1000)
  local reply, amounts = {0, most, at_ms, available - cost, rung}, {1, input + output, input, output, cost}
  raise_counters(account, 12, account_limits, ids, amounts, reply)
  raise_counters(key, 6, key_limits, ids, amounts, reply)
  if user_limits then raise_counters(user, 6, user_limits, ids, amounts, reply) end
  account[9] = now_s
  account[4] = account[4] + cost -- held
  account[7] = account[7] + 1 -- hold_version
  account[10] = account[10] + 1 -- running
  key[4] = key[4] + 1 -- running
  batch.room = batch.room - 1

  -- VERSION or OF_USER, HELD
  local low, high = byte(item, names_at - 2, names_at - 1)
  local payload_at = names_at + low + high * 256
  local user_tags = user_limits and user_limits[#user_limits] or ''
  return reply, struct.pack('<BBI4i8i8i8i8', user_limits and 2 or 1, 72, batch.epoch, at_ms, cost, input, output)
    .. sub(item, names_at, payload_at - 1) .. account_limits[#account_limits] .. key_limits[#key_limits] .. user_tags
    .. sub(item, payload_at)
end

-- The epoch of an entry H; nil for any other entry, or none.
local function epoch_held(raw)
  if not raw or #raw < 6 then return nil end
  local state, epoch = struct.unpack('<BI4', raw, 2)
  return state == 72 and epoch or nil -- HELD
end

-- Answers the reply, and the entry S.
local function settle(batch, item, at, account, key, user, raw)
  if epoch_held(raw) ~= batch.epoch or not account or not key then return {11, raw and 1 or 0} end
  local cost, input, output, payload_at = struct.unpack('<i8i8i8', item, at)
  if not end_hold(account, key, user, raw, 1, input, output, cost) then return {11, 1} end
  local balance, dseq = account[3] - cost, account[5] + 1
  account[3], account[5] = balance, dseq
  -- VERSION, SETTLED; the account's id is the first of the hold's names.
  return {0, dseq, balance - account[4]}, struct.pack('<BBI4i8i8', 1, 83, batch.epoch, batch.now_ms, dseq)
    .. string.sub(raw, 39, 39 + string.byte(raw, 39)) .. string.sub(item, payload_at)
end

-- Answers the reply, and false: there is no entry any more.
local function void(batch, account, key, user, raw)
  local epoch = epoch_held(raw)
  if not epoch or epoch > batch.epoch then return {11, raw and 1 or 0} end
  if epoch < batch.epoch then -- it was not held again: it is in no state, its entry alone is left
    batch.room = batch.room + 1
    return {0}, false
  end
  if not account or not key then return {11, 1} end
  if not end_hold(account, key, user, raw, 0, 0, 0, 0) then return {11, 1} end
  batch.room = batch.room + 1
  return {0, account[3] - account[4]}, false
end

-- Read

local epoch, max_unsettled, share, first = unpack_from('<I4I4I4I4', ARGV[1])
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'open')
if tonumber(meta[1] or -1) ~= epoch then return {} end
local batch = {epoch = epoch, open = meta[2] == '1', now_ms = now_ms, room = 0, limits = {}, share = share, first = first}

local ending = {}
for i = 2, #ARGV do
  if string.byte(ARGV[i]) % 3 ~= 1 then ending[#ending + 1] = string.sub(ARGV[i], 2, 27) end
end
local found = #ending > 0 and redis.call('HMGET', KEYS[2], unpack(ending))
if batch.open and #ending < #ARGV - 1 then batch.room = max_unsettled - redis.call('HLEN', KEYS[2]) end
local packed = #KEYS > 2 and redis.call('MGET', unpack(KEYS, 3))
local states, changed, entries = {}, {}, {}
for place = 3, #KEYS do
  local state = packed[place - 2] and unpack_state(packed[place - 2])
  states[place] = state and state[EPOCH] == epoch and state
end

-- Do: `entries` are those that this batch has written, false where it has deleted one; `ended` counts through `found`.

local replies, ended = {}, 0
for i = 2, #ARGV do
  local item = ARGV[i]
  local operation, id, account_place, key_place, at = unpack_from('<Bc26HH', item)
  local account, key = states[account_place], states[key_place]
  local user, user_place, reply, entry
  if operation > 3 then
    user_place, at = unpack_from('<H', item, at)
    operation, user = operation - 3, states[user_place] or false
  end
  if operation == 1 then
    reply, entry = admit(batch, item, at, account, key, user)
  else
    ended = ended + 1
    local raw = entries[id]
    if raw == nil then raw = found[ended] end
    if operation == 2 then
      reply, entry = settle(batch, item, at, account, key, user, raw)
    else
      reply, entry = void(batch, account, key, user, raw)
    end
  end
  if entry ~= nil then
    entries[id] = entry
    changed[account_place], changed[key_place] = account, key
    if user then changed[user_place] = user end
  end
  replies[i - 1] = reply
end

-- Write

local values = {}
for place, state in pairs(changed) do
  if state then
    values[#values + 1] = KEYS[place]
    values[#values + 1] = pack(state_format(#packed[place - 2]), unpack(state))
  end
end
if #values > 0 then redis.call('MSET', unpack(values)) end
local set, deleted = {}, {}
for id, entry in pairs(entries) do
  if entry then set[#set + 1], set[#set + 2] = id, entry else deleted[#deleted + 1] = id end
end
if #set > 0 then redis.call('HSET', KEYS[2], unpack(set)) end
if #deleted > 0 then redis.call('HDEL', KEYS[2], unpack(deleted)) end
return replies
