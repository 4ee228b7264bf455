"""A ledger of a large installation, written by SQL in minutes: what pages and reads of sums are measured on.

10,000 accounts with 101,000 keys and a person each; events of DAYS, their transfers and their sums, purchases with lots
and orders, an audit log. A tenth of the events are the first account's: 20 keys with 24 combinations of model and
endpoint each, tags of 5 teams and 20 projects. A twentieth are the second one's, which has 1,000 keys. The others share
the rest, the first of them more than the last, with ten keys each. Everything is a function of the number of an event,
so that two runs write the same. Amounts follow from counts and PRICE, so that `metergate ledger verify` proves them.

Tables are filled without the indexes that are no constraints, which are made at the end: what an installation has that
has grown by itself, but for free space within pages. Sums by minute and hour are written for the first two accounts
alone: pages read them of one account at a time, and those of all would take longer than everything else. A ledger that
is to be verified is filled with `whole`: it has them all.
"""

import time
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import asyncpg

from benchmarks.subjects import Report, Unsound
from billing.database.connection import Database
from billing.ledger.reports import Reports
from billing.ledger.sums import BEGINNING, END, Folds, total
from billing.pricing import FACTOR_SCALE, PriceRow, canonical_json

DAYS: Final = 90
MONTHS: Final = 6
ACCOUNTS: Final = 10_000
STEP_ROWS: Final = 1_000_000
STATEMENT_S: Final = 3600.0
# The first account, with a tenth of all events and 480 combinations of dimensions.
LARGE: Final = "01K0000000000000000000ACC0"
# The second one, with a twentieth of them and 1,000 keys.
WIDE: Final = "01K0000000000000000000ACC1"
# A key of the first account, and one of the last of ten thousand, which has few events.
KEY: Final = f"01K{7:023}"
SMALL_KEY: Final = f"01K{1020 + 9_997 * 10:023}"
EMAIL: Final = "person{}@example.com"
# The owners of both; the second one is a member of the first one's organization, too.
PERSON: Final = ("01KUSER0000000000000000000", "01KUSER0000000000000000001")
# What every event costs: 40 nano-USD a token of input, half of it where it is cached, 200 a token of output.
PRICE: Final = PriceRow(
    "provider-0", "*", date(2026, 1, 1), {"input": 40_000_000, "cached_input": 20_000_000, "output": 200_000_000}, {}
)
# A fifth more is charged.
MARKUP_SCALED: Final = 20 * FACTOR_SCALE

_FUNCTIONS: Final = (
    """CREATE FUNCTION pg_temp.digit(ms bigint, shift integer) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', ((ms >> shift) & 31)::integer + 1, 1) $$""",
    # Ordered as ULIDs of their time are, beside those too.
    """CREATE FUNCTION pg_temp.ulid(ms bigint, n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT pg_temp.digit(ms, 45) || pg_temp.digit(ms, 40) || pg_temp.digit(ms, 35) || pg_temp.digit(ms, 30)
        || upper(lpad(to_hex(ms & 1073741823), 8, '0')) || lpad(n::text, 14, '0') $$""",
    """CREATE FUNCTION pg_temp.hashed(n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
    $$ SELECT abs(hashint8(n)::bigint) $$""",
    """CREATE FUNCTION pg_temp.account(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT '01K0000000000000000000ACC' || n $$""",
    """CREATE FUNCTION pg_temp.key(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT '01K' || lpad(n::text, 23, '0') $$""",
    """CREATE FUNCTION pg_temp.person(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT '01KUSER' || lpad(n::text, 19, '0') $$""",
)
_DIMENSIONS: Final = """
CREATE UNLOGGED TABLE crowd_dimensions AS
SELECT id, account, key, CASE WHEN account = 0 THEN key % 5 ELSE account END AS person, model, endpoint
FROM (
    SELECT 1 + key * 24 + model * 3 + endpoint AS id, 0 AS account, key, model, endpoint
    FROM generate_series(0, 19) AS key, generate_series(0, 7) AS model, generate_series(0, 2) AS endpoint
    UNION ALL SELECT 481 + key, 1, 20 + key, key % 8, 0 FROM generate_series(0, 999) AS key
    UNION ALL SELECT 1481 + ((account - 2) * 10 + key) * 2 + other, account, 1020 + (account - 2) * 10 + key,
        (account + key + other) % 8, 0
    FROM generate_series(2, $1 - 1) AS account, generate_series(0, 9) AS key, generate_series(0, 1) AS other
) AS d
"""
_PEOPLE: Final = (
    """INSERT INTO accounts (id, name, plan, tz, created_at)
    SELECT pg_temp.account(n), 'Company ' || n, 'free', CASE n WHEN 0 THEN 'America/New_York' END, $2
    FROM generate_series(0, $1 - 1) AS n""",
    """INSERT INTO users (id, email, email_verified_at, name, status, created_at)
    SELECT pg_temp.person(n), 'person' || n || '@example.com', $2, 'Person ' || n, 'active', $2
    FROM generate_series(0, $1 - 1) AS n""",
    """INSERT INTO organizations (id, slug, name, account_id, created_at)
    SELECT '01KORG' || lpad(n::text, 20, '0'), 'company-' || n, 'Company ' || n, pg_temp.account(n), $2
    FROM generate_series(0, $1 - 1) AS n""",
    """INSERT INTO memberships (org_id, user_id, role, created_at)
    SELECT '01KORG' || lpad(n::text, 20, '0'), pg_temp.person(n), 'owner', $2::timestamptz
    FROM generate_series(0, $1 - 1) AS n
    UNION ALL SELECT '01KORG' || lpad('0', 20, '0'), pg_temp.person(n), 'member', $2 FROM generate_series(1, 4) AS n""",
    """INSERT INTO api_keys (id, account_id, user_id, name, prefix, secret_sha256, scopes, created_at)
    SELECT pg_temp.key(key), pg_temp.account(account), pg_temp.person(min(person)), 'key ' || key, 'mg_bench',
        sha256(key::text::bytea), ARRAY['llm:call'], $2
    FROM crowd_dimensions WHERE account < $1 GROUP BY key, account""",
    """INSERT INTO usage_dimensions (id, account_id, key_id, user_id, model, provider, endpoint, feature)
    OVERRIDING SYSTEM VALUE
    SELECT id, pg_temp.account(account), pg_temp.key(key), pg_temp.person(person), 'model-' || model,
        'provider-' || model % 3, (ARRAY['/v1/chat/completions', '/v1/messages', '/v1/responses'])[1 + endpoint], 'llm'
    FROM crowd_dimensions WHERE account < $1 AND $2::timestamptz IS NOT NULL""",
    """INSERT INTO usage_tags (id, account_id, name, value) OVERRIDING SYSTEM VALUE
    SELECT 1, pg_temp.account(0), 'team', NULL WHERE $1::integer > 0 AND $2::timestamptz IS NOT NULL
    UNION ALL SELECT 2, pg_temp.account(0), 'project', NULL
    UNION ALL SELECT 10 + n, pg_temp.account(0), 'team', 'team' || n FROM generate_series(0, 4) AS n
    UNION ALL SELECT 20 + n, pg_temp.account(0), 'project', 'project' || n FROM generate_series(0, 19) AS n""",
    "SELECT setval(pg_get_serial_sequence('usage_dimensions', 'id'), 10000000), $1::integer, $2::timestamptz",
    "SELECT setval(pg_get_serial_sequence('usage_tags', 'id'), 1000), $1::integer, $2::timestamptz",
    """INSERT INTO audit_log (at, actor, action, subject, before, after, account_id)
    SELECT $2::timestamptz + n / 200000.0 * interval '90 days', 'user:' || pg_temp.person(pg_temp.hashed(n) % $1),
        (ARRAY['key.create', 'account.update', 'user.sign_in'])[1 + n % 3], pg_temp.account(pg_temp.hashed(n) % $1),
        '{"name": "old"}', '{"name": "new"}', pg_temp.account(pg_temp.hashed(n) % $1)
    FROM generate_series(1, 200000) AS n""",
)
_CHOSEN: Final = """
CREATE UNLOGGED TABLE crowd_events AS
SELECT n, at, pg_temp.ulid((date_part('epoch', at) * 1000)::bigint, n) AS id,
    CASE WHEN d <= 480 THEN pg_temp.hashed(n * 5 + 3) % 5 END AS team,
    CASE WHEN d <= 480 THEN pg_temp.hashed(n * 5 + 4) % 20 END AS project, d AS dimensions,
    100 + n % 900 AS input_tokens, n % 50 AS cached, 50 + n % 200 AS output_tokens, cost AS cost_nano,
    cost * 6 / 5 AS charged_nano
FROM (SELECT *, (100 + n % 900 - n % 50) * 40 + n % 50 * 20 + (50 + n % 200) * 200 AS cost FROM (
    SELECT n, $2::timestamptz + n::float8 / $1 * $3::interval AS at,
        CASE WHEN h % 20 < 2 THEN 1 + i % 480 WHEN h % 20 = 2 THEN 481 + i % 1000
            ELSE 1481 + (floor(($4 - 2) * pow((i % 1000003) / 1000003.0, 2))::bigint * 10 + h / 20 % 10) * 2
                + (h / 200 % 8 = 0)::integer END AS d
    FROM (SELECT n, pg_temp.hashed(n) AS h, pg_temp.hashed(n * 7 + 1) AS i
        FROM generate_series(1, $1::bigint) AS n) AS r
) AS placed) AS c
"""
_EVENTS: Final = """
INSERT INTO usage_events (request_id, admitted_at, outcome, account_id, user_id, key_id, upstream_request_id, endpoint,
    feature, model, provider, provider_model, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
    reasoning_tokens, cost_nano, charged_nano, price_id, markup_scaled, estimated, status, stream, latency_ms, tags,
    epoch, dseq, created_at, session, tool, end_user, attempts)
SELECT e.id, e.at, 'settled', d.account_id, d.user_id, d.key_id, 'req_4f1c0f6ea8b1c5b4', d.endpoint,
    d.feature, d.model, d.provider, d.model, e.input_tokens, e.cached, 0, e.output_tokens, 0, e.cost_nano,
    e.charged_nano, $3, $4, e.n % 1000 = 0,
    CASE WHEN e.n % 200 = 0 THEN 499 ELSE 200 END, e.n % 3 = 0,
    200 + pg_temp.hashed(e.n * 5) % 3000 + CASE WHEN e.n % 10000 = 0 THEN 60000 ELSE 0 END,
    CASE WHEN team IS NOT NULL THEN jsonb_build_object('team', 'team' || team, 'project', 'project' || project) END,
    1, e.n, e.at, CASE WHEN e.n % 4 = 0 THEN 'session-' || e.n / 400 END, CASE WHEN e.n % 4 = 0 THEN 'claude-code' END,
    CASE WHEN e.n % 2 = 0 THEN 'end-user-' || pg_temp.hashed(e.n) % 50000 END, 1 + (e.n % 100 = 0)::integer
FROM crowd_events AS e JOIN usage_dimensions AS d ON d.id = e.dimensions
WHERE e.n BETWEEN $1 AND $2 ORDER BY e.n
"""
_TRANSFERS: Final = """
INSERT INTO transfers (id, debit_account, credit_account, amount_nano, kind, request_id, created_at)
SELECT e.id, d.account_id, 'sys:revenue', e.charged_nano, 'usage', e.id, e.at
FROM crowd_events AS e JOIN usage_dimensions AS d ON d.id = e.dimensions
WHERE e.n BETWEEN $1 AND $2 ORDER BY e.n
"""
_PURCHASES: Final = (
    """INSERT INTO transfers (id, debit_account, credit_account, amount_nano, kind, idempotency_scope, idempotency_key,
        created_at)
    SELECT pg_temp.ulid((date_part('epoch', at) * 1000)::bigint, n), 'sys:stripe',
        pg_temp.account(n % $2::bigint), 50000000000, 'purchase', 'order',
        'local:' || n, at
    FROM (SELECT n, $3::timestamptz + n / ($1::bigint * 3.0) * $4::interval AS at
        FROM generate_series(1, $1::bigint * 3) AS n) AS p""",
    """INSERT INTO orders (id, account_id, kind, amount_cents, status, provider, checkout_id, payment_id,
        idempotency_key, request_digest, transfer_id, credited_at, created_at)
    SELECT id, credit_account, 'credit', amount_nano / 10000000, 'credited', 'local', 'cs_' || id, 'pi_' || id, id,
        '\\x00', id, created_at, created_at FROM transfers WHERE kind = 'purchase'""",
    """INSERT INTO lots (id, account_id, kind, transfer_id, amount_nano, left_nano, priority, promotional, created_at)
    SELECT id, credit_account, 'purchase', id, amount_nano, amount_nano, 50, false, created_at
    FROM transfers WHERE kind = 'purchase'""",
    """UPDATE accounts SET balance_nano = moved.nano FROM (
        SELECT id, sum(nano) AS nano FROM (
            SELECT debit_account AS id, -sum(amount_nano) AS nano FROM transfers GROUP BY 1
            UNION ALL SELECT credit_account, sum(amount_nano) FROM transfers GROUP BY 1) AS sides
        GROUP BY 1) AS moved
    WHERE moved.id = accounts.id""",
)
_SUMS: Final = """
INSERT INTO usage_sums (account_id, granularity, tag, bucket, dimensions, value, requests, input_tokens,
    cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano)
SELECT d.account_id, $1::smallint, tag, bucket, dimensions, value, requests, input_tokens, cached, 0, output_tokens, 0,
    cost_nano, charged_nano
FROM (
    SELECT tag, date_trunc($2, at, 'UTC') AS bucket, dimensions, value, count(*) AS requests,
        sum(input_tokens)::bigint AS input_tokens, sum(cached)::bigint AS cached,
        sum(output_tokens)::bigint AS output_tokens, sum(cost_nano)::bigint AS cost_nano,
        sum(charged_nano)::bigint AS charged_nano
    FROM (
        SELECT *, 0 AS tag, 0::bigint AS value FROM crowd_events WHERE dimensions <= $3
        UNION ALL SELECT *, 1, 10 + team FROM crowd_events WHERE team IS NOT NULL
        UNION ALL SELECT *, 2, 20 + project FROM crowd_events WHERE team IS NOT NULL
    ) AS e
    GROUP BY 1, 2, 3, 4
) AS s JOIN usage_dimensions AS d ON d.id = s.dimensions ORDER BY bucket
"""
_ALL, _FEW = 10**9, 1480
# Units of sums, and whose dimensions have them: by minute and hour the first two accounts' alone, which are read.
_UNITS: Final = (("minute", _FEW), ("hour", _FEW), ("day", _ALL), ("month", _ALL))
_LATER: Final = """
SELECT i.indexname AS name, i.indexdef AS made FROM pg_indexes AS i
WHERE i.tablename = $1 AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conname = i.indexname)
"""
_SETTINGS: Final = ("synchronous_commit = off", "work_mem = '512MB'", "maintenance_work_mem = '1GB'", "jit = off")
_PRICED: Final = "INSERT INTO prices (id, provider, model, effective_from, said) VALUES ($1, $2, $3, $4, $5)"
_OF_ALL: Final = (
    """INSERT INTO usage_by_account
    SELECT granularity, bucket, account_id, sum(requests), sum(cost_nano), sum(charged_nano)
    FROM usage_sums WHERE granularity >= 2 AND tag = 0 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
    """INSERT INTO usage_by_model
    SELECT granularity, bucket, model, provider, sum(requests), sum(cost_nano), sum(charged_nano)
    FROM usage_sums JOIN usage_dimensions ON id = dimensions
    WHERE granularity >= {least} AND tag = 0 GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4""",
)
_KEY: Final = "usage_sums_pkey"
_FILLED: Final = ("usage_events", "transfers", "usage_sums")


async def fill(
    database_url: str, events: int, report: Report, accounts: int = ACCOUNTS, *, whole: bool = False
) -> None:
    """Fill an empty, migrated database; `report` is told how far it is."""
    began = time.monotonic()

    def told(what: str) -> None:
        report(f"crowd: {what} ({time.monotonic() - began:.0f} s)")

    connection = await asyncpg.connect(database_url, command_timeout=STATEMENT_S)
    try:
        for setting in _SETTINGS:
            await connection.execute(f"SET {setting}")
        await _fill(connection, events, accounts, told, whole)
    finally:
        await connection.close()
    told("done")


async def _fill(connection: Any, events: int, accounts: int, told: Report, whole: bool) -> None:
    first, lasts = datetime.now(UTC) - timedelta(days=DAYS), timedelta(days=DAYS)
    for function in _FUNCTIONS:
        await connection.execute(function)
    await connection.execute("SELECT create_usage_months($1::date, $2)", first.date(), MONTHS)
    await connection.execute(_DIMENSIONS, accounts)
    for statement in _PEOPLE:
        await connection.execute(statement, accounts, first)
    price = PRICE.id, PRICE.provider, PRICE.model, PRICE.effective_from, canonical_json(PRICE)
    await connection.execute(_PRICED, *price)
    told("accounts and keys")
    later = [row for table in _FILLED for row in await connection.fetch(_LATER, table)]
    for row in later:
        await connection.execute(f"DROP INDEX {row['name']}")
    await connection.execute(f"ALTER TABLE usage_sums DROP CONSTRAINT {_KEY}")
    await connection.execute(_CHOSEN, events, first, lasts, accounts)
    await connection.execute("ANALYZE")
    for at in range(1, events + 1, STEP_ROWS):
        until = min(events, at + STEP_ROWS - 1)
        await connection.execute(_EVENTS, at, until, PRICE.id, MARKUP_SCALED)
        await connection.execute(_TRANSFERS, at, until)
        told(f"{until:,} events")
    await connection.execute(_PURCHASES[0], accounts, accounts, first, lasts)
    for statement in _PURCHASES[1:]:
        await connection.execute(statement)
    for granularity, (unit, most) in enumerate(_UNITS):
        await connection.execute(_SUMS, granularity, unit, _ALL if whole else most)
        told(f"sums by {unit}")
    for statement in _OF_ALL:
        await connection.execute(statement.format(least=1 if whole else 2))
    await connection.execute(
        f"ALTER TABLE usage_sums ADD CONSTRAINT {_KEY} PRIMARY KEY "
        "(account_id, granularity, tag, bucket, dimensions, value)"
    )
    for row in later:
        await connection.execute(row["made"].replace(" ON ONLY ", " ON "))  # partitions have theirs, too
    await connection.execute("DROP TABLE crowd_events, crowd_dimensions")
    told("indexes")
    await connection.execute("VACUUM ANALYZE")


async def fold_all(database: Database, report: Report) -> None:
    """Fold hours until none are due, as gateways do once the sums by one dimension are new."""
    began = time.monotonic()
    while steps := await Folds(database).round():
        report(f"crowd: {steps} times some hours folded ({time.monotonic() - began:.1f} s)")


async def check(database: Database) -> None:
    """Raises `Unsound` where the sums of the first account are not those of its events."""
    (span,) = await Reports(database).sums.spans(LARGE, (BEGINNING, END))
    used = total(span)
    counted = await database.row(
        "SELECT count(*) AS requests, sum(charged_nano)::bigint AS charged FROM usage_events WHERE account_id = $1",
        LARGE,
    )
    if counted is None or (used.requests, used.charged_nano) != tuple(counted):
        raise Unsound(f"sums are {used}, events {counted}")


async def ids(database_url: str) -> dict[str, str]:
    """What pages that are about one thing are about: that of the first account. Raises `Unsound`."""
    connection = await asyncpg.connect(database_url)
    try:
        found = await connection.fetchrow(
            "SELECT (SELECT max(id) FROM transfers WHERE debit_account = $1) AS event_id, "
            "(SELECT min(id) FROM api_keys WHERE account_id = $1) AS key_id, "
            "(SELECT max(id) FROM orders WHERE account_id = $1) AS order_id",
            LARGE,
        )
    finally:
        await connection.close()
    if found is None or None in found.values():
        raise Unsound("the first account has no event, key or order")
    one = dict(found)
    return {**one, "request_id": one["event_id"], "account_id": LARGE, "user_id": PERSON[1], "plan_id": "free"}
