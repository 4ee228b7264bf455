"""What waits in Postgres for longer than it should: mails, notices, events of payments, sums of usage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from billing.database.connection import Database, from_row, queries

_query = queries("billing")

# What has waited for as long is late: each of these is looked at every few seconds.
LATE_S: Final = 300
# Requests that the sums of usage lack, in all: they are moved there within seconds.
MOST_FRESH: Final = 100_000


@dataclass(frozen=True, slots=True)
class Backlogs:
    """What waits too long, and what was given up in the last day; each error is the last of its kind."""

    mails_late: int = 0
    mails_failed: int = 0
    mail_error: str | None = None
    notices_late: int = 0
    webhooks_failing: int = 0
    payment_events_late: int = 0
    payment_error: str | None = None
    debits_set_aside: int = 0
    fresh: int = 0

    def troubles(self) -> list[tuple[str, str]]:
        """Return what an operator should look at: what it is about, and a clause."""
        found: list[tuple[str, str]] = []
        if self.mails_late or self.mails_failed:
            late = f"{self.mails_late} mails have waited for more than {LATE_S // 60} minutes"
            failed = f"{self.mails_failed} mails were given up in the last day"
            said = " and ".join(each for each, count in ((late, self.mails_late), (failed, self.mails_failed)) if count)
            found.append(("mail", said + _because(self.mail_error)))
        if self.notices_late:
            found.append(("notices", f"{self.notices_late} notices have waited for more than {LATE_S // 60} minutes"))
        if self.webhooks_failing:
            found.append(("webhooks", f"{self.webhooks_failing} webhooks of the operators' fail"))
        if self.payment_events_late:
            said = f"{self.payment_events_late} events of payments have waited for more than {LATE_S // 60} minutes"
            found.append(("payments", said + _because(self.payment_error)))
        if self.debits_set_aside:
            said = f"{self.debits_set_aside} debits were refused by the ledger, and are not charged"
            found.append(("debits", said))
        if self.fresh > MOST_FRESH:
            found.append(("sums", f"more than {MOST_FRESH:,} requests wait to be added to the sums of usage"))
        return found


def _because(error: str | None) -> str:
    return f" ({error})" if error else ""


async def read_backlogs(database: Database) -> Backlogs:
    """Return what waits too long now. Raises `DatabaseError`."""
    row = await database.row(_query("backlogs"), LATE_S, MOST_FRESH + 1)
    assert row is not None  # noqa: S101 - a statement of subqueries alone has one row
    return from_row(Backlogs, row)
