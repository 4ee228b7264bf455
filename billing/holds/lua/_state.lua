-- The layout of state, shared by every script: this text precedes each of them. Packed values begin with a format
-- version; integers are little-endian, amounts nano-USD (i8), all within 2^53 so that Lua's doubles are exact. No amount
-- goes through tostring or `..`, which keep 14 digits only.
--
--   account  version B, epoch I4, balance i8, held i8, dseq i8, xseq i8, hold_version i8, principal_version I4,
--            now_s I4, running I4, count B, then per counter: tag I4, window id I4, used i8, held i8
--   key      version B, epoch I4, principal_version I4, running I4, count B, counters likewise
--   user     as a key: what all keys of a user of the account have used, where that has limits; its principal_version is
--            the account's, and `running` is not counted
--   entry    version B, state B ('H' held, 'S' settled, 'E' claimed for expiry), epoch I4, at_ms i8, then
--            H, E: cost i8, input i8, output i8, then `names`: account id, key id, model, feature, gateway (each B + bytes),
--                  count B + account tags I4, count B + key tags I4, in version 2 count B + user tags I4, payload
--            S:    dseq i8, account id (B + bytes), payload
--            The payload is the debit as the gateway encoded it: in an H what an expired hold would be charged.
--            Version, state, epoch and at_ms stay where they are in every version. An entry that can't be read is left
--            where it is, and stops nothing. Version 2 is that of a hold which counts for a user, too.
-- States and entries have versions of their own. A state of another version counts as missing.
--
-- A tag holds the window's code in bits 0-2, the metric's in bits 3-5, a filter's digest above; bit 31 marks a counter
-- that waits for its base from Postgres. `used` counts what is settled in the counter's window, `held` what the open
-- holds that were admitted in it may still use. A request itself is used, not held, from its admission on: its end, but
-- for a void, gives none back.
--
-- Here an account, a key or a user is a flat list of those numbers, each known by its place: those named below, and of a counter
-- the place of its tag, with the window id, `used` and `held` behind it.
--
-- A call of a script defines all of its functions anew; each of them costs 0.1 us, and so does each local that any of
-- them captures. So the functions here and in hot.lua capture functions and memos alone and write places out, with their
-- names beside them, and what the hot path does not need is in _cold.lua.

local VERSION, STATE_VERSION = 1, 2
local HELD, SETTLED, CLAIMED = 72, 83, 69
local PENDING = 2147483648
local EPOCH = 2
local A_BALANCE, A_HELD, A_DSEQ, A_XSEQ, A_HOLD_VERSION, A_VERSION, A_NOW_S, A_RUNNING = 3, 4, 5, 6, 7, 8, 9, 10
local K_VERSION, K_RUNNING = 3, 4
local A_COUNTERS, K_COUNTERS = 12, 6
-- An account's time never goes back, so that a clock that does resets no window. One that is further ahead of the clock
-- than this, in seconds, was taken from a wrong clock: `retime` sets it right.
local AHEAD_S = 3600
local pack, unpack_from = struct.pack, struct.unpack

local TIME = redis.call('TIME')
local now_ms = TIME[1] * 1000 + math.floor(TIME[2] / 1000)

-- The window ids at a Unix second, by window code. The month is counted from year 0: days_to_civil of Howard Hinnant's
-- "chrono-compatible low-level date algorithms".
local windows_memo = {}
local function windows_at(second)
  local ids = windows_memo[second]
  if ids then return ids end
  local floor = math.floor
  local day = floor(second / 86400)
  local z = day + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  ids = {[0] = floor(second / 60), floor(second / 3600), day, floor((day + 3) / 7),
    (yoe + era * 400 + (month <= 2 and 1 or 0)) * 12 + month - 1, 0}
  windows_memo[second] = ids
  return ids
end

-- The format of a packed state by its length, which says whether it is a key's, and how many counters it has.
local formats = {}
local function state_format(length)
  local format = formats[length]
  if not format then
    if length % 24 == 14 then
      format = '<BI4I4I4B' .. string.rep('I4I4i8i8', (length - 14) / 24)
    else
      format = '<BI4i8i8i8i8i8I4I4I4B' .. string.rep('I4I4i8i8', (length - 58) / 24)
    end
    formats[length] = format
  end
  return format
end

-- A state as a list; nil for one of another version.
local function unpack_state(raw)
  if string.byte(raw, 1) ~= 2 then return nil end -- STATE_VERSION
  local state = {struct.unpack(state_format(#raw), raw)}
  state[#state] = nil
  return state
end

-- Where a state's counter stands, and whether it is pending; nil when it has none. Its counters begin at `first`.
local function find_counter(state, first, tag)
  for at = first, #state, 4 do
    if state[at] == tag then return at, false end
    if state[at] == tag + 2147483648 then return at, true end -- PENDING
  end
  return nil
end

-- Add to the counters that a hold raised, where the window in which it was admitted is still the current one. Its tags
-- are a B count + I4 at `at` in `raw`, mostly in the order of the counters; `ids` are the windows then; `used` and `held`
-- are what to add by metric code + 1. Answers the place after the tags.
local function correct_counters(state, first, raw, at, ids, used, held)
  local count = string.byte(raw, at)
  local format = formats[-count]
  if not format then
    format = '<' .. string.rep('I4', count)
    formats[-count] = format
  end
  local tags, place = {struct.unpack(format, raw, at + 1)}, first
  for i = 1, count do
    local tag, found = tags[i], place
    if state[found] ~= tag then found = find_counter(state, first, tag) end
    if found then
      local window = tag % 8
      if state[found + 1] == ids[window] then
        local metric = (tag - window) / 8 % 8 + 1
        state[found + 2] = state[found + 2] + used[metric]
        state[found + 3] = state[found + 3] + held[metric]
      end
      place = found + 4
    end
  end
  return tags[count + 1]
end

-- End the hold of an entry H or E in the states of its account, its key and its user (nil, false: not loaded), by what
-- it turned into: nothing where it is given back. An entry's five names begin at 39; its tags follow. Answers false, and
-- changes nothing, where the entry can't be read (another version, or cut short), and where it counts for a user while
-- whoever ends it knows of none (nil): the user's limits came while it ran.
local function end_hold(account, key, user, raw, requests, input, output, cost)
  local byte, at, version = string.byte, 39, string.byte(raw, 1)
  for _ = 1, 5 do
    local length = byte(raw, at)
    if not length then return false end
    at = at + 1 + length
  end
  local of_account = byte(raw, at)
  local of_key = of_account and byte(raw, at + 1 + 4 * of_account)
  if not of_key or #raw < at + 1 + 4 * (of_account + of_key) then return false end
  local user_at
  if version ~= 1 then
    user_at = at + 2 + 4 * (of_account + of_key)
    local of_user = byte(raw, user_at)
    if version ~= 2 or user == nil or not of_user or #raw < user_at + 4 * of_user then return false end
  end
  local at_ms, held_cost, held_input, held_output = struct.unpack('<i8i8i8i8', raw, 7)
  local ids = windows_at(math.floor(at_ms / 1000))
  local used = {requests - 1, input + output, input, output, cost}
  local held = {0, -held_input - held_output, -held_input, -held_output, -held_cost}
  account[4] = account[4] - held_cost -- held
  account[7] = account[7] + 1 -- hold_version
  account[10] = account[10] - 1 -- running
  at = correct_counters(account, 12, raw, at, ids, used, held)
  if key then
    key[4] = key[4] - 1 -- running
    correct_counters(key, 6, raw, at, ids, used, held)
  end
  if user and user_at then correct_counters(user, 6, raw, user_at, ids, used, held) end
  return true
end
