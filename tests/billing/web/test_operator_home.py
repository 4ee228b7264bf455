"""The operators' first page and that of providers: what they say is what the API says."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from msgspec import structs

from billing.api.requests import BadRequest
from billing.ledger.catalogue import sync_prices
from billing.ledger.sums import roll
from billing.refused_requests import RefusedRequest
from billing.schemas.system import ProviderShape, ProviderTestShape, TargetShape, TroubleShape
from billing.traffic.counts import BOUNDS_MS, FAILED, HEAD, REFUSED, Counted, ProviderTraffic
from billing.usage import Usage
from billing.web.charts import TREND_HEIGHT, trend
from billing.web.operator_home import SPANS, unwell
from tests.billing.support import PRICES
from tests.billing.web.support import serving


def slow(count: int, *, at: int = 3, failed: int = 0) -> ProviderTraffic:
    return ProviderTraffic(
        {"503": failed}, {}, tuple(count if place == at else 0 for place in range(len(BOUNDS_MS) + 1))
    )


def test_a_provider_is_shown_where_it_fails_or_is_much_slower_than_before():
    recent = {"a": slow(30, at=6), "b": slow(30), "c": slow(30, failed=3), "d": slow(3, at=6), "new": slow(90, at=6)}
    found = {each.name: each.state for each in unwell(recent, dict.fromkeys("abcd", slow(500)))}
    assert found == {"a": "slow", "c": "failing"}


def test_a_trend_draws_what_is_below_zero_below_it():
    chart = trend([30, 0, -10], ["a", "b", "c"])
    above, none, below = chart.bars
    assert (above.y + above.height, none.height, below.y) == (chart.zero, 0, chart.zero)
    assert (above.height + below.height, below.below) == (TREND_HEIGHT, True)
    assert trend([], []).bars == ()


async def test_the_span_is_compared_with_the_one_before_by_whole_steps(console):
    account_id, billing = console.organization.account_id, console.billing
    await sync_prices(billing.database, PRICES)
    now = datetime.now(UTC)
    await billing.database.execute("SELECT create_usage_months($1, 4)", (now - timedelta(days=70)).date())
    key, _ = await billing.keys.create(account_id, "laptop")
    for days, times in ((0, 5), (1, 3), (8, 2), (35, 1)):
        for _ in range(times):
            usage = Usage(input_tokens=1000, output_tokens=100)
            await billing.debit(account_id, key.id, usage, admitted_at=now - timedelta(days=days))
    await console.services.traffic.add((Counted(REFUSED, "quota_exceeded", "", 4),), (), ())
    for rolled in (False, True):  # from fresh rows and from sums
        if rolled:
            await roll(billing.database, 1)
        for span, changes in (("7d", "+50%"), ("30d", "+400%")):
            home = await console.get("/operator", "operator", params={"span": span})
            assert f"Requests {8 if span == '7d' else 10}" in home.words, home.words
            assert changes in home.words
            assert "Refusals 4" in home.words
        hours = await console.get("/operator", "operator", params={"span": "24h"})
        assert "Requests 5" in hours.words
    api = await console.services.reports.margins.by_time(now - timedelta(days=7), now + timedelta(days=1), hourly=True)
    assert sum(each.requests for each in api.values()) == 8
    wrong = await console.get("/operator", "operator", params={"span": "1y"})
    assert (wrong.status, set(SPANS)) == (400, {"24h", "7d", "30d", "90d"})
    assert account_id in (await console.get("/operator", "operator")).text  # among the top accounts


async def test_an_account_whose_credit_ends_soon_and_what_troubles_the_gateway_are_shown(console):
    account_id, billing = console.organization.account_id, console.billing
    await sync_prices(billing.database, PRICES)
    await billing.grants.grant(account_id, 2_000_000_000, "welcome")
    key, _ = await billing.keys.create(account_id, "laptop")
    before = datetime.now(UTC) - timedelta(minutes=2)
    usage = Usage(input_tokens=10**6)
    await billing.debit(account_id, key.id, usage, charged_nano=1_000_000_000, admitted_at=before)
    await roll(billing.database, 1)
    services = replace(
        console.services, troubles=lambda: [TroubleShape(about="circuit:openai/0", message="the circuit is open")]
    )
    async with serving(services, console) as served:
        home = await served.get("/operator", "operator")
        assert "Degraded: this needs attention. The circuit is open Details" in home.words
        assert "Acme runs out of credit soon: remind it" in home.words
        dry = (await console.billing.reports.margins.running_dry(datetime.now(UTC) - timedelta(days=7), 3, 9))[0]
        assert (dry.id, dry.hours_left, dry.recharges) == (account_id, 24, False)
    assert "OK: no problems found." in (await console.get("/operator", "operator")).words


async def test_a_new_installation_is_told_what_it_lacks_to_sell(console):
    async def listed():
        return [structs.replace(provider("local"), kind="local")]

    async with serving(replace(console.services, providers=listed, sends_mail=False), console) as served:
        home = await served.get("/operator", "operator")
        assert "Only the built-in provider is on, which makes answers up: set the key of another" in home.words
        assert "No mail is sent, so that nobody else can sign in by code: set SMTP_HOST" in home.words
        assert re.search(r'href="[./]*\.\./docs/people#mail"', home.text)


async def test_who_is_refused_for_lack_of_credit_is_a_task(console):
    refused, account_id = console.services.refused, console.organization.account_id
    for minutes in (61, 1):
        at_ms = int((datetime.now(UTC) - timedelta(minutes=minutes)).timestamp() * 1000)
        fields = "key_1", "/v1/chat/completions", "x", 402, "billing_required", "Add credit.", {}
        refused.note(RefusedRequest(f"req_{minutes}", at_ms, account_id, *fields))
        await refused.flush()
        home = await console.get("/operator", "operator")
        assert ("Refused for lack of credit in the last hour: Acme" in home.words) == (minutes == 1)
    assert f'operator/accounts/{account_id}">Refused' in home.text


def provider(name: str, off: str | None = None) -> ProviderShape:
    target = TargetShape(number=0, origin="https://api.example.com", weight=1, state="closed", open_until=None)
    return ProviderShape(name=name, kind=name, off_reason=off, dialects=["openai"], models=["m"], targets=[target])


async def test_providers_show_how_they_answer_and_those_not_set_up_take_one_line(console):
    async def listed():
        return [provider("openai"), provider("cohere", "COHERE_API_KEY is not set"), provider("groq", "off")]

    heads = tuple(4 if at == 3 else 0 for at in range(len(BOUNDS_MS) + 1))
    await console.services.traffic.add(
        (Counted(FAILED, "openai", "503", 1), Counted(HEAD, "openai", "", 4, heads)), (), ()
    )
    async with serving(replace(console.services, providers=listed), console) as served:
        page = await served.get("/operator/providers", "operator", params={"within": "15m"})
        assert "failing 0.3 1 (20.00%) 375 ms 500 ms" in page.words
        assert "2 not set up: cohere, groq" in page.words
        one = await served.get("/operator/providers/openai", "operator")
        assert "HTTP 503 1" in one.words
        assert "It never opened." in one.words
        assert (await served.get("/operator/providers/none", "operator")).status == 404


async def test_a_provider_is_tested_and_its_page_says_what_came_of_it(console):
    asked = []

    async def listed():
        return [provider("openai")]

    async def tested(name, model, target, sending):
        asked.append((name, model, target))
        if target:
            raise BadRequest(f"{name} has no target {target}.", "target")
        return ProviderTestShape(
            provider=name,
            model=model or "cheap",
            provider_model="cheap-1",
            target=target,
            origin="https://api.example.com",
            circuit="open",
            ok=False,
            status=401,
            head_ms=120,
            first_token_ms=None,
            total_ms=130,
            input_tokens=None,
            output_tokens=None,
            cost_usd=None,
            error="invalid key",
            advice="Set the key anew.",
        )

    async with serving(replace(console.services, providers=listed, test_provider=tested), console) as served:
        assert "Test openai now" in (await served.get("/operator/providers/openai", "operator")).words
        page = await served.post("/operator/providers/openai/test", "operator", {"model": ""})
        assert page.status == 200
        for said in ("Set the key anew.", "invalid key", "HTTP 401", "120 ms", "yours: no customer is charged"):
            assert said in page.words
        refused = await served.post("/operator/providers/openai/test", "operator", {"model": "m", "target": "7"})
        assert refused.status == 422
        assert "openai has no target 7." in refused.words
        assert (await served.post("/operator/providers/openai/test", "operator", {"target": "x"})).status == 422
    assert asked == [("openai", None, 0), ("openai", "m", 7)]
    audited = (await console.get("/operator/audit?action=provider.test", "operator")).words
    assert "openai" in audited
