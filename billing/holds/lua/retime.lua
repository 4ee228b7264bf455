-- Set an account's time right where it is more than STEP_S ahead of this server's clock, which Postgres's must confirm: a
-- wrong clock has taken it there. Postgres's may differ by STEP_S, and by AHEAD_S where the account is further ahead than
-- that. Not behind an open hold: its end must find the window in which it counts. Counters whose windows lie ahead of the
-- account's time then are not usable: `adopt` begins them anew.
--
-- KEYS[1] meta   KEYS[2] account state
-- ARGV[1] epoch   ARGV[2] the account's hold_version, and ARGV[3] the Unix second of the latest admission among its open
-- holds then (0: none)   ARGV[4] Postgres's clock, Unix ms
-- Reply: 0 it is not ahead (any more)   1 another epoch, or not installed   2 holds have begun or ended meanwhile
--        3 the clocks differ by more than that   4 an open hold is as far ahead

local STEP_S = 60

if not epoch_is(KEYS[1], tonumber(ARGV[1])) then return 1 end
local account = read_state(KEYS[2])
if not account or account[EPOCH] ~= tonumber(ARGV[1]) then return 1 end
local server_s = floor(now_ms / 1000)
local ahead_s = account[A_NOW_S] - server_s
if ahead_s <= STEP_S then return 0 end
local apart_s = ahead_s > AHEAD_S and AHEAD_S or STEP_S
if math.abs(now_ms - tonumber(ARGV[4])) > apart_s * 1000 then return 3 end
if account[A_HOLD_VERSION] ~= tonumber(ARGV[2]) then return 2 end
local right_s = math.max(server_s, tonumber(ARGV[3]))
if right_s > server_s + apart_s then return 4 end
account[A_NOW_S] = right_s
write_account(KEYS[2], account)
return 0
