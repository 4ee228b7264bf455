"""Bills of providers: fetched page by page, kept, compared with the ledger, and told of where they differ.

A bill's lines replace those that were kept of its days from the same source, in one transaction: fetched again, a bill
is the same, or as the provider has corrected it. What is compared is read afterwards, so that a comparison can be had
again without asking anybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from billing.database.connection import queries
from billing.errors import MetergateError
from billing.money import NANO_PER_USD, format_usd
from billing.notices.emit import emit
from billing.provider_bills.lines import (
    BillError,
    BillLine,
    BillRefused,
    BillUnavailable,
    Comparison,
    Counts,
    SourceName,
    Tolerance,
    compare,
    headers_of,
    questions,
    read_invoice,
    read_page,
    together,
)

if TYPE_CHECKING:
    from billing.database.connection import Database

logger = logging.getLogger(__name__)

MOST_DAYS: Final = 93
# Of one question: a page has up to 31 days.
MOST_PAGES: Final = 100
MOST_LINES: Final = 200_000
# Whole days that a round compares, but for the last one: providers correct their figures for a day or two.
ROUND_DAYS: Final = 3
# Stands for an account in notices that are about none: operators' endpoints get them, and NOTIFICATION_WEBHOOK.
OPERATORS: Final = ""
# Gets the body of an answer by a URL and headers. Raises `BillUnavailable`.
Fetch = Callable[[str, Mapping[str, str]], Awaitable[bytes]]
Kept = Literal["api", "invoice"]
TIMEOUT_S: Final = 30.0
ANSWER_BYTES: Final = 32 * 1024 * 1024
ATTEMPTS: Final = 3
# Before the second attempt; it doubles with each.
FIRST_PAUSE_S: Final = 0.5
TRIED_AGAIN: Final = frozenset((429, 500, 502, 503, 504, 529))
_REFUSED: Final = frozenset((401, 403))
_query = queries("billing.provider_bills")


class NoSuchBill(MetergateError):
    """There is no such provider, or it has no key for its bills."""

    kind = "not_found"


@dataclass(frozen=True, slots=True)
class BillAccount:
    """How a provider's bill is asked for, and what it is about. Without `source` and `key` it can be given as an
    invoice alone. `providers` are the entries that are billed together; with `keys` those of the provider's own ids
    alone are compared: others are used elsewhere."""

    providers: tuple[str, ...]
    source: SourceName | None = None
    base_url: str = ""
    key: str = field(default="", repr=False)
    keys: tuple[str, ...] = ()
    tolerance: Tolerance = field(default_factory=Tolerance)


@dataclass(frozen=True, slots=True)
class Bill:
    """A comparison of the days of UTC from `since` on and before `until`."""

    provider: str
    source: Kept
    since: date
    until: date
    comparison: Comparison


class Bills:
    """Fetches, keeps and compares. Methods raise `DatabaseError`, and `NoSuchBill` for what there is none of."""

    def __init__(
        self, database: Database, accounts: Mapping[str, BillAccount], fetch: Fetch, clock: Callable[[], float]
    ) -> None:
        """`accounts` has every provider of the configuration by its name; `clock` gives Unix seconds."""
        self._database, self._accounts, self._fetch, self._clock = database, accounts, fetch, clock
        self._differences: dict[str, int] = {}

    @property
    def asked(self) -> list[str]:
        """Return the providers whose bills are asked for by themselves."""
        return [name for name, account in self._accounts.items() if account.source is not None]

    def difference_usd(self, provider: str) -> float:
        """Return the difference of the last comparison, as gauges show it."""
        return self._differences.get(provider, 0) / NANO_PER_USD

    async def fetched(self, provider: str, since: date, until: date) -> Bill:
        """Fetch and store a provider's bill of some days, and compare it. Raises `BillError`."""
        account = self._account(provider)
        if account.source is None:
            raise NoSuchBill(f"The entry of {provider} has no billing key that is set: give its invoice as a file.")
        self._check_days(since, until)
        lines: list[BillLine] = []
        for question in questions(account.source, since, until):
            cursor, pages = None, 0
            while pages == 0 or cursor is not None:
                if (pages := pages + 1) > MOST_PAGES:
                    raise BillUnavailable(f"The provider's answer at {question.path} has more than {MOST_PAGES} pages.")
                query = (*question.query, *((("page", cursor),) if cursor is not None else ()))
                url = f"{account.base_url}{question.path}?{urlencode(query)}"
                found, cursor = read_page(question, await self._fetch(url, headers_of(account.source, account.key)))
                lines += found
                _check_lines(lines)
        lines = [line for line in lines if since <= line.day < until]
        await self._keep(provider, "api", since, until, together(lines))
        return await self.compared(provider, "api", since, until)

    async def given(self, provider: str, since: date, until: date, invoice: str, names: Mapping[str, str]) -> Bill:
        """Keep an invoice as CSV, and compare it. Raises `BillRefused`."""
        self._account(provider)
        self._check_days(since, until)
        await self._keep(provider, "invoice", since, until, read_invoice(invoice, names, since, until))
        return await self.compared(provider, "invoice", since, until)

    async def compared(self, provider: str, source: Kept, since: date, until: date) -> Bill:
        """Compare what is kept of a source with the ledger, of the same snapshot. Raises `BillRefused`."""
        account = self._account(provider)
        self._check_days(since, until)
        async with self._database.transaction(snapshot=True) as connection:
            kept = await connection.fetch(_query("lines_read"), provider, source, since, until, list(account.keys))
            rows = await connection.fetch(
                _query("ours_read"), list(account.providers), _begin_of(since), _begin_of(until)
            )
        ours = {
            (row["day"], row["model"]): Counts(
                row["requests"], row["input_tokens"], row["output_tokens"], int(row["amount_nano"])
            )
            for row in rows
        }
        lines = [BillLine(**dict(row)) for row in kept]
        return Bill(provider, source, since, until, compare(ours, lines, account.tolerance))

    async def round(self) -> None:
        """Fetch and compare the last days of every provider that can be asked, and tell operators of differences: of
        each day once."""
        until = datetime.fromtimestamp(self._clock(), UTC).date() - timedelta(days=1)
        for provider in self.asked:
            try:
                bill = await self.fetched(provider, until - timedelta(days=ROUND_DAYS), until)
            except BillError as error:
                logger.warning("the bill of %s was not compared: %s", provider, error)
                continue
            await self._notify(bill)

    async def refresh(self) -> None:
        """Read how the last comparisons ended, whichever gateway made them."""
        rows = await self._database.rows(_query("comparisons_read"))
        self._differences = {row["provider"]: int(row["difference_nano"]) for row in rows}

    async def _notify(self, bill: Bill) -> None:
        comparison = bill.comparison
        ours, theirs = comparison.total
        amounts = (ours.amount_nano, theirs.amount_nano, comparison.difference_nano)
        differing: dict[date, list[Any]] = defaultdict(list)
        for row in comparison.rows:
            if row.category != "matched" and row.difference_nano:
                differing[row.day].append(row)
        async with self._database.transaction() as connection:
            await connection.execute(
                _query("comparisons_set"), bill.provider, bill.since, bill.until, *map(str, amounts)
            )
            for day, rows in differing.items():
                data = {
                    "provider": bill.provider,
                    "day": day.isoformat(),
                    "billed_usd": format_usd(sum(row.theirs.amount_nano for row in rows)),
                    "ledger_usd": format_usd(sum(row.ours.amount_nano for row in rows)),
                    "models": [row.model for row in rows][:20],
                }
                once = f"{bill.provider}:{day}"
                await emit(connection, OPERATORS, "provider.difference", data, once=once)

    async def _keep(self, provider: str, source: Kept, since: date, until: date, lines: list[BillLine]) -> None:
        _check_lines(lines)
        columns = ([getattr(line, name) for line in lines] for name in BillLine.__dataclass_fields__)
        async with self._database.transaction() as connection:
            await connection.execute(_query("lines_forget"), provider, source, since, until)
            await connection.execute(_query("lines_add"), provider, source, *columns)

    def _account(self, provider: str) -> BillAccount:
        account = self._accounts.get(provider)
        if account is None:
            raise NoSuchBill(f"There is no provider {provider!r} in the configuration.")
        return account

    def _check_days(self, since: date, until: date) -> None:
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        if not since < until <= today:
            raise BillRefused("since must be before until, and until no later than today: days that are over.", "since")
        if (until - since).days > MOST_DAYS:
            raise BillRefused(f"At most {MOST_DAYS} days are compared at once.", "since")


def _check_lines(lines: list[BillLine]) -> None:
    if len(lines) > MOST_LINES:
        raise BillRefused(f"A bill has at most {MOST_LINES} lines: take fewer days.", "since")


def _begin_of(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


async def fetch(url: str, headers: Mapping[str, str]) -> bytes:
    """Return the body of a provider's answer with the status 200: one question, bounded in time, size and attempts.

    Redirects are not followed, because they could carry a key elsewhere, and no message says what was sent or answered.
    Raises `BillUnavailable`.
    """
    why, pause_s = "", FIRST_PAUSE_S
    jar, timeout = aiohttp.DummyCookieJar(), aiohttp.ClientTimeout(total=TIMEOUT_S)
    sent = {"Accept": "application/json", "User-Agent": "metergate", **headers}
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True, cookie_jar=jar) as session:
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                status, body = await _asked(session, url, sent)
                if status == 200:
                    return body
                why = f"it answers with status {status}"
                if status in _REFUSED:
                    raise BillUnavailable("The provider refuses the billing key: it needs an admin or management key.")
                if status not in TRIED_AGAIN:
                    break
            except TimeoutError:
                why = f"it does not answer within {TIMEOUT_S:g} s"
            except (aiohttp.ClientError, OSError, ValueError) as error:
                why = f"it can't be reached ({type(error).__name__})"
            if attempts_left:
                await asyncio.sleep(pause_s)
                pause_s *= 2
    raise BillUnavailable(f"The provider's API of usage and costs can't be read: {why}.")


async def _asked(session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    async with session.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as response:
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > ANSWER_BYTES:
                raise BillUnavailable(f"An answer of the provider is larger than {ANSWER_BYTES} bytes.")
        return response.status, bytes(body)
