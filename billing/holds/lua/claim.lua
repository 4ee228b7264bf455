-- Claim a hold whose gateway is gone, so that it can't be settled here any more. Its money stays held until `drop`.
--
-- KEYS[1] meta   KEYS[2] journal      ARGV[1] epoch   ARGV[2] request id
-- Reply: {1} another epoch or closed   {2} it has ended   {0, entry}

if not epoch_is(KEYS[1], tonumber(ARGV[1])) or redis.call('HGET', KEYS[1], 'open') ~= '1' then return {1} end
local raw = redis.call('HGET', KEYS[2], ARGV[2])
local entry = parse_entry(raw)
if not entry or entry.state == SETTLED then return {2} end
if entry.state == HELD then
  raw = string.sub(raw, 1, 1) .. string.char(CLAIMED) .. string.sub(raw, 3)
  redis.call('HSET', KEYS[2], ARGV[2], raw)
end
return {0, raw}
