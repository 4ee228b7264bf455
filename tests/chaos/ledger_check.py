"""The verdict: what clients received and the provider served, beside what the ledger and Redis hold.

Every check is exact. What is counted here and must be zero:

    lost       whole answers without a settled debit of exactly their price
    doubled    markers with more than one debit, request ids with more than one row or transfer, and debits of requests
               that never reached the provider
    overshoot  by how much balances fell below -credit_limit, and cost windows above their limits, in nano-USD
    exceeded   windows of other metrics above their limits
    leaked     journal entries, held amounts and running counts that are left when nothing runs
    drifts     differences between Redis and the ledger, and checks of the ledger itself that fail
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from billing.holds.codec import AccountState, Entry, KeyState
from billing.holds.connection import RedisError
from billing.holds.partitions import NotReady
from billing.ledger.postgres import Database, DatabaseError
from billing.ledger.verify import STATEMENT_TIMEOUT_S, verify
from billing.quotas import Metric, Quota, window_id
from gateway.runtime import Runtime
from tests.chaos.clients import Ended, Exchange
from tests.chaos.harness import Customer, Stack, until

QUIET_BOUND_S = 60.0


@dataclass
class Verdict:
    """What was found. `details` names the first of everything that is not zero."""

    requests: int = 0
    whole: int = 0
    refused: int = 0
    cut: int = 0
    debits: int = 0
    lost: int = 0
    doubled: int = 0
    overshoot_nano: int = 0
    exceeded: int = 0
    leaked: int = 0
    drifts: int = 0
    odd: int = 0
    quiet_s: float = 0.0
    details: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        bad = (self.lost, self.doubled, self.overshoot_nano, self.exceeded, self.leaked, self.drifts, self.odd)
        return not any(bad)


async def judge(stack: Stack, exchanges: Sequence[Exchange], quiet_s: float) -> Verdict:
    """Compare everything, once nothing runs (`wait_until_quiet`)."""
    verdict = Verdict(requests=len(exchanges), quiet_s=quiet_s)
    ended = Counter(exchange.ended for exchange in exchanges)
    verdict.whole, verdict.refused, verdict.cut = ended[Ended.whole], ended[Ended.refused], ended[Ended.cut]
    async with stack.runtime() as runtime:
        events = [dict(row) for row in await runtime.database.rows("SELECT * FROM usage_events")]
        verdict.debits = sum(event["outcome"] == "settled" for event in events)
        _check_answers(verdict, exchanges, events)
        await _check_doubled(verdict, runtime, stack, events)
        check_windows(verdict, stack.customers, events)
        await _check_accounts(verdict, runtime, stack.customers)
        await _check_redis(verdict, runtime)
    await _check_ledger(verdict, stack)
    return verdict


def lost_of(exchanges: Iterable[Exchange], events: dict[str, dict[str, Any]]) -> list[str]:
    """A sentence for each whole answer whose debit is missing or wrong."""
    found = []
    for exchange in exchanges:
        if exchange.ended is not Ended.whole:
            continue
        event = events.get(exchange.request_id or "")
        if event is None:
            found.append(f"{exchange.request_id} ({exchange.plan.marker}) has no debit")
        elif event["outcome"] != "settled" or event["charged_nano"] != exchange.plan.charged_nano:
            wanted = exchange.plan.charged_nano
            found.append(f"{exchange.request_id}: {event['outcome']}, {event['charged_nano']} instead of {wanted}")
        elif event["client_request_id"] != exchange.plan.marker:
            found.append(f"{exchange.request_id} is the debit of {event['client_request_id']}")
    return found


def _check_answers(verdict: Verdict, exchanges: Sequence[Exchange], events: list[dict[str, Any]]) -> None:
    lost = lost_of(exchanges, {event["request_id"]: event for event in events})
    verdict.lost = len(lost)
    verdict.details += lost[:10]
    odd = [exchange for exchange in exchanges if exchange.ended is Ended.odd]
    verdict.odd = len(odd)
    verdict.details += [f"{exchange.request_id}: ended cleanly, not whole: {exchange}" for exchange in odd[:5]]


async def _check_doubled(verdict: Verdict, runtime: Runtime, stack: Stack, events: list[dict[str, Any]]) -> None:
    rows = Counter(event["request_id"] for event in events)
    markers = Counter(event["client_request_id"] for event in events if event["charged_nano"] > 0)
    found = [f"{name} has {count} rows" for name, count in rows.items() if count > 1]
    found += [f"{name} was debited {count} times" for name, count in markers.items() if count > 1]
    found += [f"{name} was debited and never asked for" for name in markers if stack.upstream.asked[name] == 0]
    found += [f"{name} was sent {count} times" for name, count in stack.upstream.asked.items() if count > 1]
    transfers = Counter(
        row["request_id"]
        for row in await runtime.database.rows("SELECT request_id FROM transfers WHERE kind = 'usage'")
    )
    charged = {event["request_id"] for event in events if event["charged_nano"] > 0}
    found += [f"{name} has {count} transfers" for name, count in transfers.items() if count > 1]
    found += [f"{name} has a transfer and no charge" for name in transfers.keys() - charged]
    found += [f"{name} is charged without a transfer" for name in charged - transfers.keys()]
    verdict.doubled = len(found)
    verdict.details += found[:10]


def check_windows(verdict: Verdict, customers: Sequence[Customer], events: list[dict[str, Any]]) -> None:
    """Add what windows have above their limits, by the ledger."""
    by_account, by_key = defaultdict(list), defaultdict(list)
    for event in events:
        by_account[event["account_id"]].append(event)
        by_key[event["key_id"]].append(event)
    for customer in customers:
        for quotas, counted in (
            (customer.account_quotas, by_account[customer.account_id]),
            (customer.key_quotas, by_key[customer.key_id]),
        ):
            for quota in quotas:
                _check_window(verdict, customer, quota, counted)


def _check_window(verdict: Verdict, customer: Customer, quota: Quota, events: list[dict[str, Any]]) -> None:
    used: Counter[int] = Counter()
    for event in events:
        admitted: datetime = event["admitted_at"]
        used[window_id(quota.window, int(admitted.timestamp()))] += _amount(quota, event)
    for place, amount in used.items():
        if amount > quota.limit:
            verdict.details.append(f"{customer.account_id}: {quota} has {amount} in window {place}")
            if quota.metric is Metric.cost:
                verdict.overshoot_nano += amount - quota.limit
            else:
                verdict.exceeded += amount - quota.limit


def _amount(quota: Quota, event: dict[str, Any]) -> int:
    tokens = event["input_tokens"] + event["output_tokens"]
    counted = 1 if event["outcome"] == "settled" or tokens > 0 else 0
    return int((counted, tokens, event["input_tokens"], event["output_tokens"], event["charged_nano"])[quota.metric])


async def _check_accounts(verdict: Verdict, runtime: Runtime, customers: Sequence[Customer]) -> None:
    """The ledger's balance is what was granted less what was charged, and Redis has the same, with nothing held."""
    keys = runtime.engine.keyspace
    for customer in customers:
        row = await runtime.database.row(
            "SELECT balance_nano, xseq, coalesce((SELECT sum(charged_nano) FROM usage_events "
            "WHERE account_id = a.id), 0)::bigint AS charged FROM accounts a WHERE id = $1",
            customer.account_id,
        )
        assert row is not None
        expected, balance = customer.granted_nano - row["charged"], row["balance_nano"]
        if balance != expected:
            verdict.drifts += 1
            verdict.details.append(
                f"{customer.account_id}: the ledger has {balance}, grants less debits are {expected}"
            )
        if balance < -customer.credit_limit_nano:
            verdict.overshoot_nano += -customer.credit_limit_nano - balance
            verdict.details.append(f"{customer.account_id}: balance {balance} is below its limit")
        raw = await runtime.link.command("GET", keys.account(customer.account_id))
        raw_key = await runtime.link.command("GET", keys.key(customer.account_id, customer.key_id))
        if raw is None or raw_key is None:
            verdict.drifts += 1
            verdict.details.append(f"{customer.account_id} is not in Redis")
            continue
        state, key = AccountState.unpack(raw), KeyState.unpack(raw_key)
        if state.balance_nano != balance or state.xseq != row["xseq"]:
            verdict.drifts += 1
            verdict.details.append(
                f"{customer.account_id}: Redis has {state.balance_nano} at {state.xseq}, "
                f"the ledger {balance} at {row['xseq']}"
            )
        if state.held_nano or state.running or key.running:
            verdict.leaked += 1
            held = f"holds {state.held_nano}, runs {state.running}, its key {key.running}"
            verdict.details.append(f"{customer.account_id} {held}")


async def _check_redis(verdict: Verdict, runtime: Runtime) -> None:
    entries = await _journal(runtime)
    verdict.leaked += len(entries)
    verdict.details += [f"journal: {name}: {said}" for name, said in list(entries.items())[:5]]
    report = await runtime.engine.reconciler.run()
    verdict.drifts += len(report.drifts)
    verdict.details += [str(drift) for drift in report.drifts[:10]]


async def _check_ledger(verdict: Verdict, stack: Stack) -> None:
    database = Database(stack.endpoints.database_url, size=1, timeout_s=STATEMENT_TIMEOUT_S)
    try:
        for check in (await verify(database)).checks:
            verdict.drifts += check.differences
            verdict.details += list(check.examples[:5])
        aside = await database.value("SELECT count(*) FROM debits_set_aside")
    finally:
        await database.close()
    if aside:
        verdict.drifts += aside
        verdict.details.append(f"{aside} debits are set aside")


async def _journal(runtime: Runtime) -> dict[str, str]:
    found = {}
    for partition in runtime.engine.partitions.all:
        name = runtime.engine.keyspace.journal(partition.number)
        raw = await runtime.link.command("HGETALL", name)
        for field_, value in raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True):
            entry = Entry.unpack(value)
            found[field_.decode()] = f"{chr(entry.state)} of epoch {entry.epoch} by {entry.gateway or '-'}"
    return found


async def wait_until_quiet(stack: Stack) -> int:
    """Wait until nothing is left in the journal; the number of entries that stay after `QUIET_BOUND_S`."""
    left = 0
    async with stack.runtime() as runtime:

        async def empty() -> bool:
            nonlocal left
            try:
                left = len(await _journal(runtime))
            except (RedisError, DatabaseError, NotReady, TimeoutError):
                return False
            return left == 0

        with suppress(AssertionError):
            await until(empty, "the journal is empty", QUIET_BOUND_S)
    return left
