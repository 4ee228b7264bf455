-- Join an epoch: this gateway has settled what it knew of older ones; when all living ones have, it opens. It may hold accounts back
-- whose rows in Postgres are locked, so that debits of theirs could not be written, or their requests not held again: an
-- account is not served while any gateway holds it back, and the others are. Each call says all that its gateway holds
-- back; that of a gateway which is gone ends when another one says so.
--
-- KEYS[1] meta   KEYS[2] joined (set of gateways)   KEYS[3] installed (hash: `back`, the accounts that are quarantined, and
-- `back:ID`, the gateways that do it, both separated by spaces)   KEYS[4..] states of the accounts that this one holds back
-- ARGV[1] epoch   ARGV[2] this gateway   ARGV[3] number n of the accounts that it holds back   ARGV[4] number m of gateways
-- that are gone   ARGV[5..] the n accounts, in the order of KEYS; the m gateways; the gateways that live, as it has seen
-- Reply: {-1} another epoch; else {0 others are awaited, 1 open, gateways that hold accounts back ...}

local epoch, gateway, count, gone_count = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if not epoch_is(KEYS[1], epoch) then return {-1} end

local function names_in(field)
  return string.gmatch(redis.call('HGET', KEYS[3], field) or '', '%S+')
end

local function write_names(field, names)
  if #names > 0 then redis.call('HSET', KEYS[3], field, table.concat(names, ' ')) else redis.call('HDEL', KEYS[3], field) end
end

local own, gone, known = {}, {}, {}
for i = 1, count do own[ARGV[4 + i]] = KEYS[3 + i] end
for i = 5 + count, 4 + count + gone_count do gone[ARGV[i]] = true end
for account_id in pairs(own) do known[account_id] = true end
for account_id in names_in('back') do known[account_id] = true end

local accounts, gateways, reply = {}, {}, {0}
for account_id in pairs(known) do
  local by = {}
  for name in names_in('back:' .. account_id) do
    if name ~= gateway and not gone[name] then by[#by + 1] = name end
  end
  if own[account_id] then by[#by + 1] = gateway end
  write_names('back:' .. account_id, by)
  if #by > 0 then accounts[#accounts + 1] = account_id end
  for _, name in ipairs(by) do
    if not gateways[name] then reply[#reply + 1] = name end
    gateways[name] = true
  end
end
if next(known) then write_names('back', accounts) end

-- No version is 0: `admit` has whoever asks tell the newest one first, and `adopt` refuses that for now.
for account_id, key in pairs(own) do
  local account = read_state(key)
  if account and account[EPOCH] == epoch and account[A_VERSION] ~= 0 then
    account[A_VERSION] = 0
    write_account(key, account)
  end
end

redis.call('SADD', KEYS[2], gateway)
if redis.call('HGET', KEYS[1], 'open') ~= '1' then
  for i = 5 + count + gone_count, #ARGV do
    if redis.call('SISMEMBER', KEYS[2], ARGV[i]) == 0 then return reply end
  end
  redis.call('HSET', KEYS[1], 'open', '1')
end
reply[1] = 1
return reply
