-- What the scripts off the hot path share, after _state.lua. A journal entry is parsed whole here, and named.

local floor = math.floor
-- The version of an entry that has tags of a user.
local OF_USER = 2

-- An account, key or user, or nil.
local function read_state(key)
  local raw = redis.call('GET', key)
  return raw and unpack_state(raw) or nil
end

local function write_account(key, account)
  local count = (#account - 11) / 4
  account[11] = count
  redis.call('SET', key, pack(state_format(58 + 24 * count), unpack(account)))
end

-- A key or a user.
local function write_key(key, state)
  local count = (#state - 5) / 4
  state[5] = count
  redis.call('SET', key, pack(state_format(14 + 24 * count), unpack(state)))
end

local function metric_of(tag) return floor(tag / 8) % 8 end
local function window_of(tag) return tag % 8 end

local function read_text(raw, at)
  return unpack_from('<Bc0', raw, at)
end

-- A list of tags that is packed at `at`, and the place after it.
local function read_tags(raw, at)
  local count, start = unpack_from('<B', raw, at)
  local tags = {unpack_from('<' .. string.rep('I4', count), raw, start)}
  tags[count + 1] = nil
  return tags, start + 4 * count
end

-- State and epoch of an entry of this or a newer version; nil for none, and for what is no entry.
local function entry_head(raw)
  if not raw or #raw < 14 or string.byte(raw, 1) < VERSION then return nil end
  local state, epoch = unpack_from('<BI4', raw, 2)
  if state ~= HELD and state ~= SETTLED and state ~= CLAIMED then return nil end
  return state, epoch
end

local function parse_whole(raw)
  local e, at = {}, nil
  e.version, e.state, e.epoch, e.at_ms, at = unpack_from('<BBI4i8', raw)
  if e.version > OF_USER or not entry_head(raw) then return nil end
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
  e.account_tags, at = read_tags(raw, at)
  e.key_tags, at = read_tags(raw, at)
  if e.version == OF_USER then e.user_tags, at = read_tags(raw, at) end
  e.payload_at = at
  return e
end

-- A journal entry; nil for none, and for one that can't be read. `entry.state` says which fields it has, `tags_at` is
-- where its tags are packed.
local function parse_entry(raw)
  if not raw then return nil end
  local fine, entry = pcall(parse_whole, raw)
  return fine and entry or nil
end

local function packed_tags(tags)
  return pack('<B' .. string.rep('I4', #tags), #tags, unpack(tags))
end

-- The entry as it stands, with the tags that it now has.
local function retagged(raw, e)
  local of_user = e.user_tags and packed_tags(e.user_tags) or ''
  return string.char(e.user_tags and OF_USER or VERSION) .. string.sub(raw, 2, e.tags_at - 1)
    .. packed_tags(e.account_tags) .. packed_tags(e.key_tags) .. of_user .. string.sub(raw, e.payload_at)
end

-- What a request counts for each metric, by metric code + 1.
local function amounts_of(requests, input, output, cost)
  return {requests, input + output, input, output, cost}
end

local NOTHING = {0, 0, 0, 0, 0}
local REQUEST = {1, 0, 0, 0, 0}

-- Count what a debit has used, or a hold holds, by metric code + 1, in an account or key whose counters begin at
-- `first`: those of the tags packed at `at`, taken on to the window in which it was admitted where that is later than
-- theirs and has begun. Answers the place after the tags.
local function count_in(state, first, raw, at, admitted_ms, now_s, used, held)
  local ids, now_ids = windows_at(floor(admitted_ms / 1000)), windows_at(now_s)
  for _, tag in ipairs((read_tags(raw, at))) do
    local window = window_of(tag)
    local place = find_counter(state, first, tag)
    if place and state[place + 1] < ids[window] and ids[window] <= now_ids[window] then
      state[place + 1], state[place + 2], state[place + 3] = ids[window], 0, 0
    end
  end
  return correct_counters(state, first, raw, at, ids, used, held)
end

local function epoch_is(meta, epoch)
  return tonumber(redis.call('HGET', meta, 'epoch') or -1) == epoch
end
