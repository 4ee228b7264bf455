"""Reports of what an account used: requests, from the ledger's sums, and bytes of traffic that exporters count.

Money is the ledger's: charges are of all traffic of an account, so that by node, inbound tag or direction a charge is
split by bytes, to the nano-USD, and groups add up to the total.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from billing.collect.debits import ENDPOINT, KEY, METER
from billing.collect.facts import TRAFFIC_NAMES, read_traffic
from billing.ledger.sums import DIMENSIONS, MOST_GROUPED, TAG, Group, Grouping, Span, UsageQueryError, Used
from billing.pricing.table import METER_PROVIDER

if TYPE_CHECKING:
    from datetime import datetime

    from billing.collect.facts import Counted
    from billing.ledger.sums import UsageSums

OF_LEDGER: Final = Grouping(("provider", "model"))
# Debits of traffic have it.
REGION_TAG: Final = f"{TAG}region"
# The group that debits of traffic are in, by what requests are grouped by.
_OF_DEBITS: Final[Mapping[str, str | None]] = {
    "key": KEY,
    "user": None,
    "model": METER,
    "provider": METER_PROVIDER,
    "endpoint": ENDPOINT,
    "feature": METER,
}


class UsageReports:
    """Reads what was used, bytes included. Methods raise `UsageQueryError` and `database.connection.DatabaseError`."""

    def __init__(self, sums: UsageSums, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds."""
        self._sums, self._clock = sums, clock

    async def spans(
        self,
        account_id: str,
        bounds: Sequence[datetime],
        names: Sequence[str] = (),
        named: Sequence[str] | None = None,
    ) -> list[Span]:
        """Return what was used in each span between two bounds, as `UsageSums.spans`, with bytes; by names of requests
        or by those of traffic, which are all told apart."""
        of_traffic = [name for name in names if name in TRAFFIC_NAMES]
        if not of_traffic:
            spans = await self._sums.spans(account_id, bounds, _grouping(names), named=named)
            for each in await self._bytes(account_id, bounds):
                _add(spans[each.span], _of_debits(names, each.region), each.up + each.down)
            return spans
        if len(of_traffic) < len(names) or len(set(names)) < len(names) or len(names) > MOST_GROUPED:
            raise UsageQueryError(
                f"group_by takes at most {MOST_GROUPED} different names, of {', '.join(TRAFFIC_NAMES)} or of "
                f"{', '.join(DIMENSIONS)} and {TAG}NAME."
            )
        by_group: list[dict[Group, int]] = [{} for _ in bounds[1:]]
        for each in await self._bytes(account_id, bounds):
            for group, count in each.by(names).items():
                by_group[each.span][group] = by_group[each.span].get(group, 0) + count
        spans = await self._sums.spans(account_id, bounds, OF_LEDGER)
        return [_split(span, groups, names) for span, groups in zip(spans, by_group, strict=True)]

    async def most_groups(self, account_id: str, names: Sequence[str]) -> int:
        """Return how many groups one span has at most by names of requests; 0 by those of traffic: nobody knows."""
        if any(name in TRAFFIC_NAMES for name in names):
            return 0
        return await self._sums.most_groups(account_id, _grouping(names))

    async def _bytes(self, account_id: str, bounds: Sequence[datetime]) -> Sequence[Counted]:
        return await read_traffic(self._sums.database, account_id, bounds, self._clock())


def _grouping(names: Sequence[str]) -> Grouping:
    try:
        return Grouping(tuple(names))
    except UsageQueryError as error:
        raise UsageQueryError(f"{error} Traffic is grouped by {', '.join(TRAFFIC_NAMES)}.") from error


def _of_debits(names: Sequence[str], region: str) -> Group:
    """Return the group that debits of traffic in a region are in."""
    return tuple((region or None) if name == REGION_TAG else _OF_DEBITS.get(name) for name in names)


def _split(span: Span, groups: Mapping[Group, int], names: Sequence[str]) -> Span:
    """Return what was used by meter, where that is asked for, and what traffic cost by its bytes: each group the share
    that all groups up to it have, less that of those before it."""
    found: Span = {}
    of_traffic = Used()
    for (provider, model), used in span.items():
        is_meter = provider == METER_PROVIDER
        if is_meter and model == METER:
            of_traffic = used
            continue
        group = tuple(model if name == "meter" and is_meter else None for name in names)
        found[group] = found.get(group, Used()).plus(used)
    total, passed, given = sum(groups.values()), 0, Used()
    if total <= 0:
        group = tuple(METER if name == "meter" else None for name in names)
        return {**found, group: found.get(group, Used()).plus(of_traffic)} if any(of_traffic) else found
    for group, count in sorted(groups.items(), key=str):
        passed += count
        so_far = Used(*(number * passed // total for number in of_traffic))
        found[group] = found.get(group, Used()).plus(so_far).plus(given, -1).plus(Used(bytes=count))
        given = so_far
    return found


def _add(span: Span, group: Group, count: int) -> None:
    if count:
        span[group] = span.get(group, Used()).plus(Used(bytes=count))
