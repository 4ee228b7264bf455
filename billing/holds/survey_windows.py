"""What the windows of many accounts have used according to Postgres, up to what Redis had counted of each.

As `windows.read_counters`, which asks for one subject at a time: what a window has used less the debits that came
after the cursors. Here the window of an account is read once, by key, and its counters are sums of what they apply to.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from billing.database.connection import Connection, Row, queries
from billing.holds.redis.layout import AccountState, Counter, Entry
from billing.holds.snapshot import gently
from billing.holds.windows import GRANULARITY, bounds_s
from billing.quotas import Quota, Window

_sql = queries("billing.ledger")
WINDOWS: Final = _sql("reconcile_windows")
LATER: Final = _sql("reconcile_later")

Amounts = tuple[int, int, int, int, int]
"""By metric."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A counter that is current in Redis, of the account in a place of the batch or of a key of it, and the holds that
    may be part of it."""

    place: int
    key_id: str | None
    quota: Quota
    counter: Counter
    holds: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Behind:
    """An account in a place of the batch, of which Postgres has debits that Redis had not counted."""

    place: int
    account_id: str
    state: AccountState


class Used:
    """What was used, by place, window, key (None: all of the account's) and the names that filters ask for."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, int, str | None], list[tuple[str, str, Amounts]]] = {}

    def add(self, place: int, window: int, row: Row, sign: int) -> None:
        tokens = row["input_tokens"], row["output_tokens"]
        requests, cost = row["requests"], row["cost_nano"]
        amounts = (sign * requests, sign * sum(tokens), sign * tokens[0], sign * tokens[1], sign * cost)
        part = (row["model"], row["feature"], amounts)
        self._parts.setdefault((place, window, None), []).append(part)
        self._parts.setdefault((place, window, row["key_id"]), []).append(part)

    def of(self, each: Compared) -> int:
        """What the counter should be without holds, in its metric's unit."""
        quota, parts = each.quota, self._parts.get((each.place, each.quota.window, each.key_id), ())
        return sum(amounts[quota.metric] for model, feature, amounts in parts if quota.applies_to(model, feature))


async def read_used(
    connection: Connection,
    accounts: Sequence[tuple[str, AccountState]],
    compared: Iterable[Compared],
    behind: Sequence[Behind],
    epoch: int,
    later_from: datetime,
) -> Used:
    """What these counters' windows have used. `accounts` are the batch by place, all in `epoch`; debits that came after
    their cursors were admitted at `later_from` or after.

    The connection must be in a transaction of one snapshot. Raises `asyncpg`'s errors, as the connection does.
    """
    used = Used()
    by_model: dict[tuple[int, Window], bool] = {}
    async for each in gently(compared):
        at = (each.place, each.quota.window)
        by_model[at] = by_model.get(at, False) or each.quota.model is not None
    if not by_model:
        return used
    bounds = {(place, window): bounds_s(window, accounts[place][1].now_s) for place, window in by_model}
    rows = await connection.fetch(
        WINDOWS,
        [place for place, _ in bounds],
        [accounts[place][0] for place, _ in bounds],
        [int(window) for _, window in bounds],
        [GRANULARITY[window] for _, window in bounds],
        [begins_s for begins_s, _ in bounds.values()],
        [ends_s for _, ends_s in bounds.values()],
        list(by_model.values()),
    )
    async for row in gently(rows):
        used.add(row["place"], row["code"], row, 1)
    if not behind:
        return used
    rows = await connection.fetch(
        LATER,
        [each.place for each in behind],
        [each.account_id for each in behind],
        [each.state.dseq for each in behind],
        [each.state.xseq for each in behind],
        epoch,
        later_from,
    )
    async for row in gently(rows):
        for window in Window:
            begins_s, ends_s = bounds.get((row["place"], window), (0, 0))
            if begins_s <= row["admitted_s"] < ends_s:
                used.add(row["place"], window, row, -1)
    return used
