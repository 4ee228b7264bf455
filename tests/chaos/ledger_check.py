"""The verdict: what clients received and the provider served, beside what the ledger and Redis hold.

Every check is exact. What is counted and must be zero:

    lost       whole answers without a settled debit of exactly their price
    free       answers that were not received whole, had output and cost nothing. A hold that was given back because its
               gateway had died, or stood still, is allowed to, where a fault may end gateways
    doubled    markers with several debits, request ids with several rows or transfers, debits of what was never sent
    overshoot  by how much balances fell below -credit_limit, and cost windows above their limits, in nano-USD
    exceeded   windows of other metrics above their limits
    leaked     journal entries, held amounts and running counts that are left when nothing runs
    drifts     differences of Redis and the ledger, windows far in the future, checks of the ledger itself that fail

`excused` counts what is missing within the bounds that a fault has stated (`Excuse`).
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from billing.database.connection import Database
from billing.holds.redis.layout import AccountState, KeyState
from billing.holds.redis.layout import Counter as Used
from billing.ledger.verify import STATEMENT_TIMEOUT_S, verify
from billing.quotas import Metric, Quota, window_id
from gateway.runtime.runtime import Runtime
from tests.chaos.clients import Ended, Exchange
from tests.chaos.harness import Customer, Excuse, Stack
from tests.chaos.quiet import DRAINED_S, _journal

if TYPE_CHECKING:
    from datetime import datetime

MOST_DETAILS = 10
AHEAD_S = 3600


@dataclass
class Verdict:
    """What was found. `details` names the first of everything that is not zero."""

    requests: int = 0
    whole: int = 0
    refused: int = 0
    cut: int = 0
    debits: int = 0
    lost: int = 0
    free: int = 0
    excused: int = 0
    excused_ms: int = 0
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
        bad = (
            self.lost,
            self.free,
            self.doubled,
            self.overshoot_nano,
            self.exceeded,
            self.leaked,
            self.drifts,
            self.odd,
        )
        return not any(bad)


async def judge(stack: Stack, exchanges: Sequence[Exchange], quiet_s: float, *, ends_gateways: bool = True) -> Verdict:
    """Compare everything, once nothing runs (`wait_until_quiet`). `ends_gateways`: a fault may have."""
    verdict = Verdict(requests=len(exchanges), quiet_s=quiet_s)
    ended = Counter(exchange.ended for exchange in exchanges)
    verdict.whole, verdict.refused, verdict.cut = ended[Ended.whole], ended[Ended.refused], ended[Ended.cut]
    async with stack.runtime() as runtime:
        events = [dict(row) for row in await runtime.database.rows("SELECT * FROM usage_events")]
        verdict.debits = sum(event["outcome"] == "settled" for event in events)
        _check_answers(verdict, stack, exchanges, events, ends_gateways=ends_gateways)
        await _check_doubled(verdict, runtime, stack, events)
        check_windows(verdict, stack.customers, events)
        await _check_accounts(verdict, runtime, stack.customers)
        await _check_redis(verdict, runtime)
    await _check_ledger(verdict, stack)
    return verdict


def lost_of(exchanges: Iterable[Exchange], events: Mapping[str, dict[str, Any]]) -> list[str]:
    """A sentence for each whole answer whose debit is missing or wrong."""
    return [reason for exchange in exchanges if (reason := _lost(exchange, events)) is not None]


def free_of(
    exchanges: Iterable[Exchange], events: Mapping[str, dict[str, Any]], *, ends_gateways: bool = True
) -> list[str]:
    """A sentence for each answer that was not received whole, of which output was, and that cost nothing."""
    found = (_free(exchange, events, ends_gateways=ends_gateways) for exchange in exchanges)
    return [reason for reason in found if reason is not None]


def _lost(exchange: Exchange, events: Mapping[str, dict[str, Any]]) -> str | None:
    if exchange.ended is not Ended.whole:
        return None
    event, wanted = events.get(exchange.request_id or ""), exchange.plan.charged_nano
    if event is None:
        return f"{exchange.request_id} ({exchange.plan.marker}) has no debit"
    if event["outcome"] != "settled" or event["charged_nano"] != wanted:
        return f"{exchange.request_id}: {event['outcome']}, {event['charged_nano']} instead of {wanted}"
    if event["client_request_id"] != exchange.plan.marker:
        return f"{exchange.request_id} is the debit of {event['client_request_id']}"
    return None


def _free(exchange: Exchange, events: Mapping[str, dict[str, Any]], *, ends_gateways: bool) -> str | None:
    if exchange.ended is Ended.whole or not exchange.got_output:
        return None
    event = events.get(exchange.request_id or "")
    if event is None:
        return f"{exchange.request_id} ({exchange.plan.marker}): output was received, {exchange.ended.value}, no debit"
    if event["charged_nano"] > 0 or (event["outcome"] == "expired" and ends_gateways):
        return None
    return (
        f"{exchange.request_id}: output was received, {exchange.ended.value}, and it is {event['outcome']} for nothing"
    )


def _excuse(excuses: Sequence[Excuse], exchange: Exchange) -> Excuse | None:
    for each in excuses:
        began_s = exchange.sent_s if exchange.ended is not Ended.whole or each.restored else exchange.ended_s
        settled_s = exchange.ended_s + (DRAINED_S if exchange.ended is Ended.left else 0.0)
        if began_s <= each.until_s and settled_s >= each.from_s:
            return each
    return None


def _check_answers(
    verdict: Verdict,
    stack: Stack,
    exchanges: Sequence[Exchange],
    events: list[dict[str, Any]],
    *,
    ends_gateways: bool,
) -> None:
    by_id = {event["request_id"]: event for event in events}
    for exchange in exchanges:
        lost, free = _lost(exchange, by_id), _free(exchange, by_id, ends_gateways=ends_gateways)
        if lost is None and free is None:
            continue
        excuse = _excuse(stack.excuses, exchange)
        if excuse is not None:
            verdict.excused += 1
            verdict.excused_ms = max(verdict.excused_ms, round((excuse.fault_s - exchange.ended_s) * 1000))
            continue
        verdict.lost, verdict.free = verdict.lost + (lost is not None), verdict.free + (free is not None)
        if verdict.lost + verdict.free <= MOST_DETAILS:
            verdict.details.append(f"{lost or free}{_beside(stack.excuses, exchange)}")
    odd = [exchange for exchange in exchanges if exchange.ended is Ended.odd]
    verdict.odd = len(odd)
    verdict.details += [f"{exchange.request_id}: ended cleanly, not whole: {exchange}" for exchange in odd[:5]]


def _beside(excuses: Sequence[Excuse], exchange: Exchange) -> str:
    """When it ended, by the fault that was nearest, where some are excused."""
    if not excuses:
        return ""
    nearest = min((exchange.ended_s - each.fault_s for each in excuses), key=abs)
    return f", which ended {nearest * 1000:+.0f} ms from the fault"


async def _check_doubled(verdict: Verdict, runtime: Runtime, stack: Stack, events: list[dict[str, Any]]) -> None:
    rows = Counter(event["request_id"] for event in events)
    # A hold that is charged as it is carries none of the client's words.
    charged_events = [each for each in events if each["charged_nano"] > 0 and each["client_request_id"] is not None]
    markers = Counter(event["client_request_id"] for event in charged_events)
    found = [f"{name} has {count} rows" for name, count in rows.items() if count > 1]
    found += [f"{name} was debited {count} times" for name, count in markers.items() if count > 1]
    asked = stack.upstream.asked.keys() | stack.upstream.broken_off
    found += [f"{name} was debited and never asked for" for name in markers.keys() - asked]
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
        expected, balance = customer.granted_nano - row["charged"], row["balance_nano"]
        if balance != expected:
            verdict.drifts += 1
            verdict.details.append(
                f"{customer.account_id}: the ledger has {balance}, grants less debits are {expected}"
            )
        if balance < -customer.credit_limit_nano:
            verdict.overshoot_nano += -customer.credit_limit_nano - balance
            verdict.details.append(f"{customer.account_id}: balance {balance} is below its limit")
        raw = await runtime.redis_client.command("GET", keys.account(customer.account_id))
        raw_key = await runtime.redis_client.command("GET", keys.key(customer.account_id, customer.key_id))
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
        quotas = (*customer.account_quotas, *customer.key_quotas)
        future = [each for each in (*state.counters, *key.counters) if _lies_ahead(each, quotas)]
        if future:
            verdict.drifts += len(future)
            verdict.details.append(f"{customer.account_id} has windows in the future: {future}")
        if state.held_nano or state.running or key.running:
            verdict.leaked += 1
            held = f"holds {state.held_nano}, runs {state.running}, its key {key.running}"
            verdict.details.append(f"{customer.account_id} {held}")


def _lies_ahead(window: Used, quotas: Sequence[Quota]) -> bool:
    """Whether a window begins more than an hour from now, by the clock that is right: less than that a Redis may have
    been ahead."""
    end_s = int(time.time()) + AHEAD_S
    return any(window.tag == quota.tag and window.window_id > window_id(quota.window, end_s) for quota in quotas)


async def _check_redis(verdict: Verdict, runtime: Runtime) -> None:
    entries = await _journal(runtime)
    verdict.leaked += len(entries)
    verdict.details += [f"journal: {name}: {what}" for name, what in list(entries.items())[:5]]
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
