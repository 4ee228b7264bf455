"""What the tests of accounts, keys, grants, reports and the API share."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from msgspec import structs
from ulid import ULID

from billing.accounts.accounts import Accounts, MemberLimits
from billing.accounts.grants import Grants
from billing.addresses import Addresses, parse_networks
from billing.api.attempts import AttemptLimits, Attempts
from billing.change_notifier import LiveBalance
from billing.database.connection import Database
from billing.keys.keys import ApiKeys, Principals
from billing.ledger.debits import Debit, other_counts
from billing.ledger.reports import Reports
from billing.ledger.writer import write_debits
from billing.money import parse_usd
from billing.plans import Plan
from billing.pricing import FACTOR_SCALE, PriceRow, PriceTable, round_up
from billing.quotas import Metric, Quota, Window
from billing.usage import Usage

PLANS = {
    "free": Plan("free", "Free", 0, quotas=(Quota(Window.minute, Metric.requests, 60),), upgrade_to="starter"),
    "starter": Plan("starter", "Starter", parse_usd("99")),
}
PRICE = PriceRow(
    provider="openai",
    model="gpt-4o-mini",
    effective_from=date(2024, 7, 18),
    per_million={"input": parse_usd("0.15"), "cached_input": parse_usd("0.075"), "output": parse_usd("0.60")},
    per_unit={"search": parse_usd("0.01")},
    multipliers={"batch": FACTOR_SCALE // 2},
)
PRICES = PriceTable([PRICE])


def rising_ids() -> Callable[[], str]:
    """ULIDs that rise with every call, so that the order of a test's rows is known."""
    start_ms = time.time_ns() // 1_000_000
    counter = itertools.count()
    return lambda: str(ULID.from_timestamp(start_ms + next(counter)))


def attempts_of(limit: int, *trusted: str, clock: Callable[[], float] = time.monotonic) -> Attempts:
    """Attempts that one process counts alone, so many in a minute, behind these proxies."""

    async def count(address: str) -> tuple[int, int]:
        return 0, 0

    networks = parse_networks(",".join(trusted)) or ()
    return Attempts(count, Addresses(networks), AttemptLimits(limit), clock, 1000)


@dataclass
class RecordingEffects:
    """ChangeNotifier that record notifications, and return the live balances that a test has set."""

    told: list[tuple[str, ...]] = field(default_factory=list)
    live: dict[str, LiveBalance] = field(default_factory=dict)

    async def account_changed(self, account_id: str) -> None:
        self.told.append(("account", account_id))

    async def key_changed(self, key_id: str, account_id: str) -> None:
        self.told.append(("key", key_id, account_id))

    async def balance_changed(self, account_id: str) -> None:
        self.told.append(("balance", account_id))

    async def live_balance(self, account_id: str) -> LiveBalance | None:
        return self.live.get(account_id)


@dataclass
class Billing:
    """The domain on one database."""

    database: Database
    change_notifier: RecordingEffects
    accounts: Accounts
    member_limits: MemberLimits
    keys: ApiKeys
    principals: Principals
    grants: Grants
    reports: Reports
    new_id: Callable[[], str]

    async def debit(
        self,
        account_id: str,
        key_id: str,
        usage: Usage,
        *,
        admitted_at: datetime | None = None,
        price: PriceRow = PRICE,
        multiplier: str | None = None,
        markup_scaled: int = 0,
        charged_nano: int | None = None,
        model: str = "fast",
        user_id: str | None = None,
        endpoint: str = "/v1/chat/completions",
        feature: str = "llm",
        tags: str | None = '{"team":"blue"}',
        **fields: Any,
    ) -> str:
        """Write one settled request and answer its id; `fields` are others of its debit."""
        at = admitted_at or datetime.now(UTC)
        cost = price.cost_scaled(usage, multiplier)
        debit = Debit(
            request_id=self.new_id(),
            admitted_at_ms=int(at.timestamp() * 1000),
            outcome="settled",
            account_id=account_id,
            user_id=user_id,
            key_id=key_id,
            client_request_id="mine",
            upstream_request_id="theirs",
            endpoint=endpoint,
            feature=feature,
            model=model,
            provider=price.provider,
            provider_model=price.model,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            counts=other_counts(usage),
            cost_nano=round_up(cost),
            charged_nano=round_up(cost, markup_scaled) if charged_nano is None else charged_nano,
            price_id=price.id,
            multiplier=multiplier,
            markup_scaled=markup_scaled,
            status=200,
            latency_ms=120,
            tags=tags,
        )
        debit = structs.replace(debit, **fields)
        stored = await write_debits(self.database, [debit])
        assert stored[debit.request_id].fresh
        return debit.request_id


@contextmanager
def changes_told(effects: RecordingEffects, *expected: tuple[str, ...]) -> Iterator[None]:
    """Exactly these effects are told within the block, in this order."""
    before = len(effects.told)
    yield
    assert effects.told[before:] == list(expected)
