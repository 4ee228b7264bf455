"""Notices of quotas that are used up, once in a window.

Windows of a minute or an hour are left out, because they reset before anybody reads a mail; so is a quota of which much
is left, where a single request asked for more. Where no refusals are kept (`refusals_per_key: 0`), none is written.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from billing.database.connection import DatabaseError
from billing.notices.emit import emit
from billing.quotas import NOTIFIED_WINDOWS

if TYPE_CHECKING:
    from billing.database.connection import Database
    from billing.refused_requests import RefusedRequest

logger = logging.getLogger(__name__)

CODE: Final = "quota_exceeded"
WINDOWS: Final = frozenset(window.name for window in NOTIFIED_WINDOWS)
# Windows that one process remembers to have notified of; the database knows of others.
KNOWN: Final = 10_000
# A quota of which a twentieth or less is left is used up.
LEFT_OF: Final = 20
_OF_A_KEY: Final = frozenset({"key", "user"})


@dataclass(frozen=True, slots=True)
class Crossing:
    """A quota that is used up: `once` is the same for every refusal of it in one window."""

    account_id: str
    once: str
    data: dict[str, Any]


def crossings(refused: Iterable[RefusedRequest]) -> list[Crossing]:
    """Return the quotas that refusals say are used up, each once. Pure."""
    found: dict[tuple[str, str], Crossing] = {}
    for each in refused:
        quota = each.details.get("quota")
        if each.code != CODE or each.account_id is None or not isinstance(quota, dict):
            continue
        if quota.get("window") not in WINDOWS or not _is_used_up(quota):
            continue
        key_id = each.key_id if quota.get("subject") in _OF_A_KEY else None
        names = ("subject", "window", "metric", "model", "limit", "resets_at")
        once = ":".join(str(part) for part in (key_id, *(quota.get(name) for name in names)))
        data = {**quota, "key_id": key_id, "upgrade": each.details.get("upgrade")}
        found[each.account_id, once] = Crossing(each.account_id, once, data)
    return list(found.values())


def _is_used_up(quota: Mapping[str, Any]) -> bool:
    """Return whether next to nothing is left: requests are refused by what they might use, so that it is hardly ever
    nothing at all."""
    limit, left = Decimal(str(quota.get("limit", 0))), Decimal(str(quota.get("remaining", 0)))
    return left * LEFT_OF <= limit


class ExhaustedNotices:
    """Writes notices of quotas that are used up."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._notified: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def notify(self, refused: Iterable[RefusedRequest]) -> None:
        """Write notices of what these refusals say is used up. What the database does not take now is written at a
        later refusal."""
        fresh = [each for each in crossings(refused) if (each.account_id, each.once) not in self._notified]
        if not fresh:
            return
        try:
            async with self._database.transaction() as connection:
                for each in fresh:
                    await emit(connection, each.account_id, "quota.exhausted", each.data, once=each.once)
        except DatabaseError as error:
            logger.info("notices of quotas that are used up are written later: %s", error)
            return
        for each in fresh:
            self._notified[each.account_id, each.once] = None
        while len(self._notified) > KNOWN:
            self._notified.popitem(last=False)
