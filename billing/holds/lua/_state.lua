-- The layout of state, shared by every script: this text precedes each of them. Packed values begin with a format
-- version; integers are little-endian, amounts nano-USD (i8), all within 2^53 so that Lua's doubles are exact. No amount
-- goes through tostring or `..`, which keep 14 digits only.
--
--   account  version B, epoch I4, balance i8, held i8, dseq i8, xseq i8, hold_version i8, principal_version I4,
--            now_s I4, running I4, count B, then per counter: tag I4, window id I4, used i8
--   key      version B, epoch I4, principal_version I4, running I4, count B, counters likewise
--   entry    version B, state B ('H' held, 'S' settled, 'E' claimed for expiry), epoch I4, at_ms i8, then
--            H, E: cost i8, input i8, output i8, then `names`: account id, key id, model, feature, gateway (each B + bytes),
--                  count B + account tags I4, count B + key tags I4, payload
--            S:    dseq i8, account id (B + bytes), payload
--            The payload is the debit as the gateway encoded it: in an H what an expired hold would be charged.
--
-- A tag holds the window's code in bits 0-2, the metric's in bits 3-5, a filter's digest above; bit 31 marks a counter
-- that waits for its base from Postgres. `used` counts what is held and what is settled.

local VERSION = 1
local HELD, SETTLED, CLAIMED = 72, 83, 69
local PENDING = 2147483648
local ACCOUNT_HEAD = '<BI4i8i8i8i8i8I4I4I4B'
local KEY_HEAD = '<BI4I4I4B'
local floor = math.floor
local pack, unpack_from = struct.pack, struct.unpack

local function numbers(format, count)
  return '<' .. string.rep(format, count)
end

local TIME = redis.call('TIME')
local now_ms = tonumber(TIME[1]) * 1000 + floor(tonumber(TIME[2]) / 1000)

-- Month number of a day since 1970-01-01 (days_to_civil of Howard Hinnant's "chrono-compatible low-level date algorithms").
local function month_of(day)
  local z = day + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return (yoe + era * 400 + (month <= 2 and 1 or 0)) * 12 + month - 1
end

-- The window ids at a Unix second, by window code.
local windows_memo = {}
local function windows_at(second)
  local ids = windows_memo[second]
  if not ids then
    local day = floor(second / 86400)
    ids = {[0] = floor(second / 60), floor(second / 3600), day, floor((day + 3) / 7), month_of(day), 0}
    windows_memo[second] = ids
  end
  return ids
end

local function read_account(key)
  local raw = redis.call('GET', key)
  if not raw then return nil end
  local a, count, at = {}, nil, nil
  a.version, a.epoch, a.balance, a.held, a.dseq, a.xseq, a.hold_version, a.principal_version, a.now_s, a.running,
    count, at = unpack_from(ACCOUNT_HEAD, raw)
  a.counters = {unpack_from(numbers('I4I4i8', count), raw, at)}
  a.count = count
  return a
end

local function write_account(key, a)
  redis.call('SET', key, pack(ACCOUNT_HEAD, VERSION, a.epoch, a.balance, a.held, a.dseq, a.xseq, a.hold_version,
    a.principal_version, a.now_s, a.running, a.count) .. pack(numbers('I4I4i8', a.count), unpack(a.counters, 1, a.count * 3)))
end

local function read_key(key)
  local raw = redis.call('GET', key)
  if not raw then return nil end
  local k, count, at = {}, nil, nil
  k.version, k.epoch, k.principal_version, k.running, count, at = unpack_from(KEY_HEAD, raw)
  k.counters = {unpack_from(numbers('I4I4i8', count), raw, at)}
  k.count = count
  return k
end

local function write_key(key, k)
  redis.call('SET', key, pack(KEY_HEAD, VERSION, k.epoch, k.principal_version, k.running, k.count)
    .. pack(numbers('I4I4i8', k.count), unpack(k.counters, 1, k.count * 3)))
end

-- Where a counter stands in a subject's flat list, and whether it is pending; nil when it has none.
local function find_counter(subject, tag, guess)
  local counters = subject.counters
  if counters[guess] == tag then return guess, false end
  for at = 1, subject.count * 3, 3 do
    if counters[at] == tag then return at, false end
    if counters[at] == tag + PENDING then return at, true end
  end
  return nil
end

local function metric_of(tag) return floor(tag / 8) % 8 end
local function window_of(tag) return tag % 8 end

-- What a request counts for each metric, by metric code.
local function amounts_of(input, output, cost)
  return {[0] = 1, input + output, input, output, cost}
end

local function read_text(raw, at)
  return unpack_from('<Bc0', raw, at)
end

local function read_tags(raw, at)
  local count, next_at = unpack_from('<B', raw, at)
  local tags = {unpack_from(numbers('I4', count), raw, next_at)}
  local after = tags[count + 1]
  tags[count + 1] = nil
  return tags, count, after
end

-- A journal entry, or nil; `entry.state` says which fields it has.
local function parse_entry(raw)
  if not raw then return nil end
  local e, at = {}, nil
  e.version, e.state, e.epoch, e.at_ms, at = unpack_from('<BBI4i8', raw)
  if e.state == SETTLED then
    e.dseq, at = unpack_from('<i8', raw, at)
    e.account_id, at = read_text(raw, at)
    return e
  end
  e.cost, e.input, e.output, at = unpack_from('<i8i8i8', raw, at)
  e.account_id, at = read_text(raw, at)
  e.key_id, at = read_text(raw, at)
  e.model, at = read_text(raw, at)
  e.feature, at = read_text(raw, at)
  e.gateway, at = read_text(raw, at)
  e.tags_at = at
  e.account_tags, e.account_tag_count, at = read_tags(raw, at)
  e.key_tags, e.key_tag_count, at = read_tags(raw, at)
  e.payload_at = at
  return e
end

-- The entry as it stands, with the tags that it now has.
local function retagged(raw, e)
  local accounts, keys = #e.account_tags, #e.key_tags
  return string.sub(raw, 1, e.tags_at - 1)
    .. pack('<B' .. string.rep('I4', accounts), accounts, unpack(e.account_tags))
    .. pack('<B' .. string.rep('I4', keys), keys, unpack(e.key_tags)) .. string.sub(raw, e.payload_at)
end

-- Add to the counters that a hold raised, where the window in which it was admitted is still the current one.
local function correct_counters(subject, tags, count, admitted_ms, change)
  local ids = windows_at(floor(admitted_ms / 1000))
  for i = 1, count do
    local tag = tags[i]
    local at = find_counter(subject, tag, i * 3 - 2)
    if at and subject.counters[at + 1] == ids[window_of(tag)] then
      subject.counters[at + 2] = subject.counters[at + 2] + change[metric_of(tag)]
    end
  end
end

-- Take counters on to the window in which something was admitted, where it is later than theirs and has begun.
local function follow(subject, tags, count, admitted_ms, now_s)
  local ids, now_ids = windows_at(floor(admitted_ms / 1000)), windows_at(now_s)
  for i = 1, count do
    local window = window_of(tags[i])
    local at = find_counter(subject, tags[i], i * 3 - 2)
    if at and subject.counters[at + 1] < ids[window] and ids[window] <= now_ids[window] then
      subject.counters[at + 1], subject.counters[at + 2] = ids[window], 0
    end
  end
end

-- End a hold in the state: `spent` is what it turned into by metric code, nil when it is given back whole.
local function end_hold(account, key, entry, spent)
  local held = amounts_of(entry.input, entry.output, entry.cost)
  local change = {}
  for metric = 0, 4 do change[metric] = (spent and spent[metric] or 0) - held[metric] end
  account.held = account.held - entry.cost
  account.running = account.running - 1
  account.hold_version = account.hold_version + 1
  correct_counters(account, entry.account_tags, entry.account_tag_count, entry.at_ms, change)
  if key then
    key.running = key.running - 1
    correct_counters(key, entry.key_tags, entry.key_tag_count, entry.at_ms, change)
  end
end

local function epoch_is(meta, epoch)
  return tonumber(redis.call('HGET', meta, 'epoch') or -1) == epoch
end
