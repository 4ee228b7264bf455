"""An organization that has been in use for six weeks, so that no page of it is empty."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from billing.api.requests import BadRequest
from billing.audit import ADMIN
from billing.collect.collector import Collector, CollectRules, Parts
from billing.collect.snapshots import Exporters, Source
from billing.ledger.catalogue import sync_prices
from billing.ledger.sums import roll
from billing.payments.assembly import Payments
from billing.refused_requests import RefusedRequest
from billing.schemas.system import (
    JobShape,
    ModelShape,
    PricingShape,
    ProviderShape,
    ProviderTestShape,
    TargetShape,
    TroubleShape,
)
from billing.times import rfc3339
from billing.traffic.counts import BOUNDS_MS, FAILED, FIRST_BYTE, HEAD, Change, Counted, Failure
from billing.traffic.store import Traffic
from billing.usage import Usage
from tests.billing.collect.support import Room
from tests.billing.support import PRICES
from tests.billing.web.support import Console, serving
from tests.support.exporter import TOKEN, Exporter, exporting

REQUESTS = 240
MODELS = ("gpt-4o-mini", "fast", "smart")
PRICES_SHOWN = (
    ("gpt-4o-mini", "openai", {"input": "0.15", "cached_input": "0.075", "output": "0.60"}, {}),
    ("fast", "openai", {"input": "0.15", "cached_input": "0.075", "output": "0.60"}, {}),
    ("smart", "anthropic", {"input": "3.00", "cached_input": "0.30", "cache_write": "3.75", "output": "15.00"}, {}),
    ("rerank", "cohere", {}, {"search": "0.002"}),
)
MODELS_SERVED = [
    ModelShape(
        id=name,
        created=0,
        owned_by=provider,
        display_name=name,
        context_length=128_000,
        max_output_tokens=16_384,
        context_window=128_000,
        pricing=PricingShape(price_id="p", usd_per_million=tokens, usd_per_unit=units),
    )
    for name, provider, tokens, units in PRICES_SHOWN
]


def _target(number: int, origin: str, weight: int, *, rests: bool = False) -> TargetShape:
    until = rfc3339(datetime.now(UTC) + timedelta(seconds=25)) if rests else None
    return TargetShape(
        number=number, origin=origin, weight=weight, state="open" if rests else "closed", open_until=until
    )


def _provider(name: str, models: list[str], *targets: TargetShape, off: str | None = None) -> ProviderShape:
    return ProviderShape(name=name, kind=name, off_reason=off, dialects=[name], models=models, targets=list(targets))


EXPORTS = """
INSERT INTO exports (name, kind, wseq, failures, error, accepted_at)
SELECT 'lago', 'lago', last_value - 3, 0, NULL, now() - interval '20 seconds' FROM usage_written
UNION ALL
SELECT 'warehouse', 'files', 0, 4, 'The folder can''t be written: No space left on device', now() - interval '2 hours'
"""
PARKED = """
INSERT INTO export_parked (export, item, account_id, reason)
SELECT 'lago', request_id, account_id, 'HTTP 422: transaction_id was taken by another event' FROM usage_events LIMIT 2
"""
HOOK = "https://hooks.example.com/metergate"
# What is filled in on pages.
FORMS = (
    ("/members/invite", {"email": "new@example.com", "role": "member"}),
    ("/alerts/low-balance", {"low_balance_usd": "10.00"}),
    ("/alerts/budgets", {"about": "account", "period": "month", "amount_usd": "50.00"}),
    ("/alerts/webhooks", {"url": HOOK, "description": "Chat"}),
)
# What was refused lately.
REFUSED = (
    ("quota_exceeded", 429, "The plan's quota of 600 requests a minute is used up: wait until it resets."),
    ("model_not_found", 404, "There is no model smart-2 here: `GET /v1/models` lists those that there are."),
    ("request_too_large", 413, "The body is larger than 32 MiB."),
)
TEAMS = ("search", "support", "research")


async def furnish(console: Console, payments: Payments) -> None:
    """Give the organization credit, keys and requests: more by day than by night, and more each week."""
    billing, owner = console.billing, console.persons["owner"]
    account_id = console.organization.account_id
    now = datetime.now(UTC)
    await sync_prices(billing.database, PRICES)
    month = (now - timedelta(days=45)).replace(day=1)
    await billing.database.execute("SELECT create_usage_months($1, 3)", month.date())
    await billing.grants.grant(account_id, 50_000_000_000, "welcome", note="Welcome")
    keys = [(await billing.keys.create(account_id, name, user_id=owner))[0] for name in ("laptop", "server", "batch")]
    for number in range(REQUESTS):
        back = timedelta(hours=4) * (number + number % 3) + timedelta(minutes=7 * (number % 8))
        large = 1 + number % 5 + (REQUESTS - number) // 60
        await billing.debit(
            account_id,
            keys[number % 3].id,
            Usage(input_tokens=41_000 * large, output_tokens=2_300 * large),
            admitted_at=now - back,
            model=MODELS[number * number % 3],
            user_id=console.persons[("owner", "member", "admin")[number % 3]],
            tags=f'{{"team":"{TEAMS[number % 3]}"}}',
        )
    await roll(billing.database, 3)
    await _buy(console, payments, "25")
    parked = await _buy(console, payments, "40", pays=False)
    await billing.database.execute("UPDATE orders SET amount_cents = 5000 WHERE status = 'open'")  # paid is less
    await _approve(payments, parked)
    for number, (code, status, message) in enumerate(REFUSED):
        console.services.refused.note(
            RefusedRequest(
                f"req_refused{number}",
                int((now - timedelta(minutes=9 * number)).timestamp() * 1000),
                account_id,
                keys[number % 3].id,
                "chat/completions",
                "smart",
                status,
                code,
                message,
                {},
            )
        )
    await console.services.refused.flush()
    await console.services.endpoints.create(None, HOOK, None, "Of the operators", actor=ADMIN)
    for path, form in FORMS:
        answer = await console.post(path, "owner", dict(form))
        assert answer.status in (200, 303), answer.words


@asynccontextmanager
async def in_operation(console: Console) -> AsyncIterator[Console]:
    """Serve the pages of a gateway that has providers, exporters that were asked once, exports, and jobs that ran."""
    now, exporter = datetime.now(UTC), Exporter()
    for minute in range(30):
        counted = [(f"person{user}", 4_000_000 * minute * user, 900_000 * minute) for user in range(1, 4)]
        exporter.say(now - timedelta(minutes=31 - minute), *counted)
    await console.billing.database.execute(EXPORTS)
    await console.billing.database.execute(PARKED)
    room = Room(console.billing, "shown")
    parts = Parts(Exporters(connections=2, answer_bytes=200_000, limit=100), room.facts, room.subjects, room.debits)
    rules = CollectRules("r1", pages=40, overlap=timedelta(minutes=20), at_once=2)
    async with exporting(exporter):
        source = Source("edge", exporter.url, TOKEN, "eu", exporter.node, "prod", 5.0)
        collector = Collector(console.billing.database, [source], parts, rules, lambda: now)
        run = await collector.run()
        assert run.status == "ok", run.error
        await collector.close()
    job = JobShape(
        job="reconcile", status="ok", started_at=rfc3339(now), finished_at=rfc3339(now), accounts=2, busy=0, drifts=[]
    )
    await _traffic(console.services.traffic)
    shown = {"collector": collector, "providers": providers, "job": _of(job), "troubles": lambda: TROUBLES}
    shown["test_provider"] = try_provider
    services = replace(console.services, **shown)
    async with serving(services, console) as served:
        yield served


TROUBLES = [
    TroubleShape(
        about="circuit:openai/2", message="the circuit of provider openai (target 2) is open for another 25 s"
    ),
    TroubleShape(about="mail", message="2 mails have waited for more than 5 minutes (Connection refused)"),
]
# Fewer of each later: one day, and weeks.
AGES = (*(timedelta(hours=hours) for hours in range(30)), *(timedelta(days=days) for days in range(2, 60)))


async def _traffic(traffic: Traffic) -> None:
    """Have refusals, errors and answers of providers for two months, more of each lately."""
    for place, age in reversed(list(enumerate(AGES))):
        counted = (
            Counted("refused", "quota_exceeded", "", 3 + (place * 7) % 11),
            Counted("refused", "upstream_error", "", 1 if place % 4 == 0 else 0),
            Counted(FAILED, "openai", "503", 9 if place == 0 else place % 3),
            Counted(HEAD, "openai", "", 60, (0, 2, 8, 16, 20, 10, 4, *[0] * (len(BOUNDS_MS) - 6))),
            Counted(HEAD, "anthropic", "", 20, (0, 0, 4, 6, 6, 3, 1, *[0] * (len(BOUNDS_MS) - 6))),
            Counted(FIRST_BYTE, "anthropic", "", 9, tuple(int(3 < at < 9) for at in range(len(BOUNDS_MS) + 1))),
        )
        await traffic.add(counted, (), ())
        await traffic.database.execute(_AGED, age)
    at_s = datetime.now(UTC).timestamp()
    changes = [Change("openai", 2, at_s - 900 * back, ("open", "closed")[back % 2], "503") for back in (6, 5, 2, 1, 0)]
    await traffic.add((), changes, (Failure("openai", at_s - 40, "503"), Failure("anthropic", at_s - 9_000, "timeout")))


# What was added last becomes so old; the rows of other ages stay.
_AGED = """
UPDATE traffic SET bucket = date_bin(CASE granularity WHEN 0 THEN interval '5 minutes' ELSE interval '1 hour' END,
    bucket - $1, timestamptz 'epoch') WHERE bucket > now() - interval '1 hour' AND $1 > interval '0'
"""


def _of(job: JobShape) -> Callable[[], Awaitable[JobShape | None]]:
    async def found() -> JobShape | None:
        return job

    return found


async def try_provider(name: str, model: str | None, target: int, sending: object) -> ProviderTestShape:
    """A key that is refused at one target, and none at the other."""
    if target > 1:
        raise BadRequest(f"{name} has no target {target}.", "target")
    return ProviderTestShape(
        provider=name,
        model=model or "fast",
        provider_model="gpt-4o-mini",
        target=target,
        origin="https://api.openai.com:443",
        circuit="open",
        ok=False,
        status=401,
        head_ms=212,
        first_token_ms=None,
        total_ms=214,
        input_tokens=None,
        output_tokens=None,
        cost_usd=None,
        error="Incorrect API key provided: [hidden].",
        advice="The key is refused: it may be wrong, revoked, or lack this model.",
    )


async def providers() -> list[ProviderShape]:
    """Two that are on, and one that is not set up."""
    openai = _target(1, "https://api.openai.com", 3), _target(2, "https://eu.example.com", 1, rests=True)
    return [
        _provider("openai", ["gpt-4o-mini", "fast"], *openai),
        _provider("anthropic", ["smart"], _target(1, "https://api.anthropic.com", 1)),
        _provider("cohere", ["rerank"], off="COHERE_API_KEY is not set"),
    ]


async def _buy(console: Console, payments: Payments, amount_usd: str, *, pays: bool = True) -> str:
    """Have credit bought, and paid with a card that is kept; the secret of the page to pay on."""
    once = re.search(r'name="once" value="([^"]+)"', (await console.get("/credit", "owner")).text)
    form = {"once": once[1], "amount_usd": amount_usd, "save_method": "on"}
    order = await console.get((await console.post("/credit/buy", "owner", form)).location.removeprefix(".."), "owner")
    link = re.search(r'class="button main" href="[^"]+/([^/"]+)"', order.text)
    assert link is not None
    if pays:
        await _approve(payments, link[1])
    return link[1]


async def _approve(payments: Payments, secret: str) -> None:
    await payments.acts.act(secret, "approve")
    await payments.events.round()
