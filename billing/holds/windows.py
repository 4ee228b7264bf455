"""What Postgres says of windows: which counters there are, and what they have used, for Redis to be given.

What is fresh is written in the transaction that writes the debits, and rollups and fresh rows are read by one
statement, so that the counters and the balance are of one moment.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from billing.database.connection import Connection, Row, queries
from billing.holds.redis.layout import Counter, HoldTags
from billing.quotas import Metric, Quota, Window, parse_quotas, window_end_s, window_id, window_start_s

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from billing.database.connection import Database
    from billing.plans import Plan

logger = logging.getLogger(__name__)

_sql = queries("billing.holds")
READ_ACCOUNT: Final = _sql("read_account_principal")
READ_KEY: Final = _sql("read_key_principal")
READ_USER: Final = _sql("read_user_principal")
WINDOW_USAGE: Final = _sql("window_usage")
WINDOW_USAGE_AFTER: Final = _sql("window_usage_after")

NO_END_S: Final = 253_402_300_799
"""The year 9999, for what never resets."""
GRANULARITY: Final[Mapping[Window, int]] = {
    Window.minute: 0,
    Window.hour: 1,
    Window.day: 2,
    Window.week: 2,
    Window.month: 3,
    Window.total: 3,
}


@dataclass(frozen=True, slots=True)
class Since:
    """The moment at which Redis began to count by itself: debit `dseq` of `epoch`, correction `xseq`, and a time of
    Postgres before it."""

    epoch: int
    dseq: int
    xseq: int
    written_after: datetime


@dataclass(frozen=True, slots=True)
class Subject:
    """An account, a key of it or a user of it, as the ledger has it: whose counters Redis is given.
    `key_ids` are the keys that count in them, None where all of the account's do; `since` is as in member_limits."""

    kind: Literal["account", "key", "user"]
    id: str
    account_id: str
    state_key: bytes
    key_ids: tuple[str, ...] | None
    version: int
    quotas: tuple[Quota, ...]
    read_at: datetime
    since: int = 0


def plan_lookup(plans: Mapping[str, Plan], default: str) -> Callable[[str], Plan]:
    """Return what finds a plan by its id; an account whose plan has left the configuration is on the default one, and
    the log says so."""

    def plan_of(plan_id: str) -> Plan:
        plan = plans.get(plan_id)
        if plan is None:
            logger.error("plan %s is in use but not in config/plans.yaml: %s applies", plan_id, default)
            return plans[default]
        return plan

    return plan_of


def account_quotas(plan: Plan, quotas: object) -> tuple[Quota, ...]:
    """Return one quota for each counter of an account: its plan's and its own, as the ledger stores them."""
    return tuple({quota.tag: quota for quota in plan.quotas + parse_quotas(quotas)}.values())


async def read_tags(
    database: Database, plan_of: Callable[[str], Plan], whose: tuple[str, str, str | None], model: str, feature: str
) -> HoldTags:
    """Return tags of the counters, of an account, a key of it and that key's user (None: of nobody's), that a request
    counts in by what the ledger has now. Raises `DatabaseError`."""
    account_id, key_id, user_id = whose
    row = await database.row(READ_ACCOUNT, account_id)
    account = account_quotas(plan_of(row["plan"]), row["quotas"]) if row is not None else ()
    row = await database.row(READ_KEY, key_id)
    key = parse_quotas(row["quotas"]) if row is not None else ()
    row = await database.row(READ_USER, account_id, user_id) if user_id is not None else None
    user = parse_quotas(row["quotas"]) if row is not None else ()

    def applying(quotas: tuple[Quota, ...]) -> list[int]:
        return [quota.tag for quota in quotas if quota.applies_to(model, feature)]

    return HoldTags(applying(account), applying(key), applying(user) if user else None)


def bounds_s(window: Window, at_s: int) -> tuple[int, int]:
    """Return the Unix seconds at which the window that holds `at_s` begins and ends. It has an end although nothing
    should be used after now: a clock that was ahead has left usage in windows to come, which is theirs."""
    end_s = window_end_s(window, at_s)
    return window_start_s(window, at_s), NO_END_S if end_s is None else end_s


async def read_counters(
    connection: Connection,
    account_id: str,
    key_ids: Sequence[str] | None,
    quotas: Sequence[Quota],
    at_s: int,
    since: Since | None = None,
) -> tuple[Counter, ...]:
    """Return one counter for each quota, in the window that holds `at_s`, of these keys or the whole account; with
    `since` only what came before it.

    The connection must be in a transaction in which no debit of the account can be written, or of one snapshot.
    """
    if not quotas:
        return ()
    starts, ends = zip(*(bounds_s(quota.window, at_s) for quota in quotas), strict=True)
    patterns, features = [quota.model or "" for quota in quotas], [quota.feature for quota in quotas]
    granularities = [GRANULARITY[quota.window] for quota in quotas]
    rows = await connection.fetch(WINDOW_USAGE, account_id, key_ids, granularities, starts, ends, patterns, features)
    used = {row["place"]: _by_metric(row) for row in rows}
    after: dict[int, tuple[int, ...]] = {}
    if since is not None:
        rows = await connection.fetch(
            WINDOW_USAGE_AFTER,
            account_id,
            key_ids,
            since.dseq,
            since.epoch,
            since.xseq,
            since.written_after,
            starts,
            ends,
            patterns,
            features,
        )
        after = {row["place"]: _by_metric(row) for row in rows}
    nothing = (0,) * len(Metric)
    return tuple(
        Counter(
            quota.tag,
            window_id(quota.window, at_s),
            used[number][quota.metric] - after.get(number, nothing)[quota.metric],
        )
        for number, quota in enumerate(quotas, start=1)
    )


def _by_metric(row: Row) -> tuple[int, ...]:
    tokens = row["input_tokens"] + row["output_tokens"]
    return (row["requests"], tokens, row["input_tokens"], row["output_tokens"], row["cost_nano"])
