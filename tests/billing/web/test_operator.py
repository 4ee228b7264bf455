"""What operators see and do: every amount is the ledger's, every change is audited, by whoever made it."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from billing.api.traffic import DAY, HOUR
from billing.ledger.catalogue import sync_prices
from billing.money import parse_usd
from billing.payments.flows import Wanted
from billing.payments.local.provider import LocalProvider
from billing.pricing import PriceTable
from billing.usage import Usage
from billing.web.operator_usage import bounds_of
from tests.billing.identity.support import join
from tests.billing.support import PRICE, PRICES
from tests.billing.web.conftest import MODELS
from tests.billing.web.support import Console

KEY = re.compile(r'name="idempotency_key" value="([^"]+)"')


async def page_of(console: Console, **more: str) -> tuple[str, str]:
    """The page of the organization's account, and the idempotency key of its forms."""
    page = await console.get(f"/operator/accounts/{console.organization.account_id}", "operator", params=more)
    assert page.status == 200
    found = KEY.search(page.text)
    return page.words, found[1]


async def test_an_account_is_corrected_and_its_timeline_has_the_balance_after_each_change(console):
    account_id, billing = console.organization.account_id, console.billing
    await sync_prices(billing.database, PRICES)
    here = f"/operator/accounts/{account_id}"
    words, key = await page_of(console)
    assert "No credit is available" in words
    form = {"amount_usd": "10", "note": "<b>welcome</b>", "idempotency_key": key}
    for _ in range(2):  # the same form sent twice is one grant
        given = await console.post(f"{here}/grant", "operator", form)
        assert (given.status, given.location) == (303, f"../../../operator/accounts/{account_id}?notice=booked")
    spender, _ = await billing.keys.create(account_id, "laptop")
    request_id = await billing.debit(account_id, spender.id, Usage(input_tokens=1000, output_tokens=100))
    words, key = await page_of(console)
    assert "Active: requests are admitted." in words
    wrong = await console.post(f"{here}/adjust", "link", {"amount_usd": "a lot", "idempotency_key": key})
    assert wrong.status == 422
    assert 'value="a lot"' in wrong.text
    form = {"amount_usd": "-2.5", "reason": "agreed", "against": "write_off", "idempotency_key": key}
    assert (await console.post(f"{here}/adjust", "link", form)).status == 303
    timeline = await console.get(f"{here}/transactions", "operator")
    found = await billing.reports.transactions(account_id, 10)
    shown = [Decimal(value) for value in timeline.values]
    assert shown == [Decimal(n) / 10**9 for each in found.items for n in (each.amount_nano, each.balance_nano)]
    assert found.items[0].balance_nano == (await billing.accounts.get(account_id)).balance_nano
    assert "&lt;b&gt;welcome" in timeline.text
    explained = await console.get(f"/operator/requests/{request_id}", "operator")
    assert "How the charge was calculated" in explained.words
    assert account_id in explained.words
    sent = await console.get("/operator/requests", "operator", params={"id": request_id})
    assert sent.location.endswith(f"/operator/requests/{request_id}")
    audit = await console.get("/operator/audit", "operator", params={"format": "csv", "account_id": account_id})
    assert audit.headers["Content-Type"].startswith("text/csv")
    assert audit.text.count("\r\n") > 2
    assert "agreed" in audit.text


async def test_an_accounts_page_has_its_usage_over_time_as_the_ledger_has_it(console):
    account_id, billing = console.organization.account_id, console.billing
    await sync_prices(billing.database, PRICES)
    key, _ = await billing.keys.create(account_id, "laptop")
    here = f"/operator/accounts/{account_id}"
    assert "It used nothing in this time." in (await console.get(here, "operator")).words
    for model, output in (("fast", 100), ("smart", 300)):
        await billing.debit(account_id, key.id, Usage(input_tokens=1000, output_tokens=output), model=model)
    await console.get("/", "owner")  # who is signed in from now on
    used = await billing.reports.usage_totals(account_id)
    for span in ("today", "7d", "30d"):
        for unit in ("money", "requests", "tokens"):
            page = await console.get(here, "operator", params={"span": span, "unit": unit})
            assert "Requests 2" in page.words
            assert "Tokens 2,400" in page.words
            assert 'class="s0"' in page.text
        assert Decimal(used.charged_nano) / 10**9 in map(Decimal, page.values)
    assert (await console.get(here, "operator", params={"span": "1y"})).status == 400
    assert "Where members are signed in" in page.words
    assert "Nobody is signed in." not in page.words
    hidden = await console.get(here, "operator", params={"hide": "fast"})
    assert "hidden, show it" in hidden.text


@pytest.mark.parametrize("hour", [0, 13, 23])
def test_today_is_compared_with_the_same_hours_of_yesterday_and_days_with_as_many_before(hour):
    now, day = datetime(2026, 3, 1, hour, 30, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
    bounds, count = bounds_of("today", now)
    assert (bounds[0], bounds[-count - 1], bounds[-1]) == (day - DAY, day, day + (hour + 1) * HOUR)
    bounds, count = bounds_of("7d", now)
    assert (bounds[0], bounds[count], bounds[-1]) == (day - 13 * DAY, day - 6 * DAY, day + DAY)


async def test_only_what_was_changed_of_an_account_is_changed(console):
    account_id = console.organization.account_id
    before = await console.billing.accounts.get(account_id)
    form = {"name": before.name, "plan": before.plan, "status": "suspended", "reason": "abuse"}
    changed = await console.post(f"/operator/accounts/{account_id}/change", "operator", form)
    assert changed.status == 303
    after = await console.billing.accounts.get(account_id)
    assert (after.status, after.name, after.plan) == ("suspended", before.name, before.plan)
    audit = await console.get("/operator/audit", "link", params={"account_id": account_id})
    entry = audit.words
    assert "suspended" in entry
    address = await console.billing.database.value(
        "SELECT email FROM users JOIN audit_log ON actor = 'user:' || users.id WHERE action = 'account.update'"
    )
    own = (await console.get("/security/audit", "owner", params={"action": "account.*"})).words
    assert f"{before.name} acc_…{account_id[-6:]}" in entry
    assert f'title="{account_id}"' in audit.text
    assert f"{before.name} {account_id}" in own
    assert (address in entry, address in own) == (True, False)  # who works for the operator is not named to customers
    listed = await console.get("/operator/accounts", "operator", params={"search": before.name[:4].upper()})
    assert f'title="{account_id}"' in listed.text
    none = await console.get("/operator/accounts", "operator", params={"search": "%", "status": "active"})
    assert "No account matches." in none.words

    await join(console.billing, console.organization, console.persons["operator"], "admin")
    del console.cookies["operator"]  # who signs in anew is in the organization, and an operator too
    own, everyone = [await console.get(path, "operator") for path in ("/keys", "/operator/keys")]
    assert "This account is suspended" in own.words
    assert "This account is suspended" not in everyone.words
    assert "all accounts" in everyone.words
    assert "<title>Keys · Metergate" in own.text
    assert "<title>Keys · Operator · Metergate" in everyone.text
    assert f"<h2>{before.name}</h2>" in everyone.text


async def test_keys_show_what_they_spent_and_are_revoked(console):
    account_id, billing = console.organization.account_id, console.billing
    await sync_prices(billing.database, PRICES)
    key, _ = await billing.keys.create(account_id, "laptop")
    idle, _ = await billing.keys.create(account_id, "idle")
    await billing.debit(account_id, key.id, Usage(input_tokens=1000, output_tokens=100))
    (spent, *_) = (await billing.reports.transactions(account_id, 1)).items
    page = await console.get("/operator/keys", "operator", params={"account_id": account_id})
    assert [Decimal(value) for value in page.values] == [Decimal(0), -Decimal(spent.amount_nano) / 10**9]
    assert (await console.post(f"/operator/keys/{idle.id}/revoke", "operator")).status == 303
    assert (await billing.keys.get(idle.id)).revoked_at is not None


async def test_the_first_page_has_the_money_and_each_number_leads_to_its_rows(console):
    account_id, billing = console.organization.account_id, console.billing
    await sync_prices(billing.database, PRICES)
    key, _ = await billing.keys.create(account_id, "laptop")
    await billing.debit(account_id, key.id, Usage(input_tokens=1000, output_tokens=100))
    (spent, *_) = (await billing.reports.transactions(account_id, 1)).items
    home = await console.get("/operator", "operator")
    assert f'value="{format(-Decimal(spent.amount_nano) / 10**9, "f")}"' in home.text
    hrefs = re.findall(r'class="figure"><dt>[^<]*</dt><dd><a href="\./([^"]+)"', home.text)
    tiles = re.findall(r'class="tile" href="\./([^"]+)"', home.text)
    assert len(tiles) == 6
    for href in {*hrefs, *tiles}:
        path, _, query = href.replace("&amp;", "&").partition("?")
        params = dict(pair.split("=") for pair in query.split("&") if pair)
        assert (await console.get(f"/{path}", "operator", params=params)).status == 200, href
    await console.cookie("member")
    person = await console.get(f"/operator/people/{console.persons['member']}", "operator")
    assert person.status == 200
    disabled = await console.post(f"/operator/people/{console.persons['member']}", "operator", {"status": "disabled"})
    assert disabled.status == 303
    assert (await console.get("/usage", "member")).status == 303  # signed out


async def test_prices_have_their_history_and_a_usage_is_tried(console, billing):
    """The page computes a usage as the command does; it also lists rows that only the ledger still has."""
    gone = replace(PRICE, per_million={**PRICE.per_million, "output": parse_usd("0.70")})
    other = replace(PRICE, provider="azure", per_unit={})
    await sync_prices(billing.database, PriceTable([gone, other]))
    page = await console.get("/operator/prices", "operator")
    assert f"history?of=openai%2F{MODELS[0].id}" in page.text  # its row is none of this table
    page = await console.get("/operator/prices/differences", "operator")
    assert page.values[:2] == ["1", "2"]
    assert [row.id in page.text for row in (PRICE, gone, other)] == [True, True, True]
    await sync_prices(billing.database, PRICES)
    page = await console.get("/operator/prices/differences", "operator")
    assert "the ledger has every row of it" in page.words
    page = await console.get("/operator/prices/history", "operator", params={"of": "openai/gpt-4o-mini"})
    assert [row.id in page.text for row in (PRICE, gone, other)] == [True, True, False]
    assert "output $0.70" in page.words
    asked = {"model": "gpt-4o-mini", "counts": "input_tokens=1000000 output_tokens=500000 searches=1"}
    page = await console.get("/operator/prices/try", "operator", params=asked)
    assert page.values == ["0.46"]
    assert "by openai/gpt-4o-mini from 2024-07-18" in page.words
    for wrong, said in (
        ({"model": "openai/none"}, "No row prices"),
        ({"counts": "tokens=1"}, "Counts are input_tokens"),
    ):
        page = await console.get("/operator/prices/try", "operator", params={**asked, **wrong})
        assert (page.status, said in page.words) == (422, True)


async def test_money_in_is_what_customers_paid_and_leads_to_each_payment(console):
    """Plans count, not credit alone."""
    payments, account_id = console.services.payments, console.organization.account_id
    assert payments.acts is not None
    for wanted in (Wanted(account_id, "credit", parse_usd("20")), Wanted(account_id, "plan", plan="starter")):
        order = await payments.flows.checkout(wanted)
        await payments.acts.act((order.url or "").rpartition("/")[2], "approve")
    assert isinstance(payments.provider, LocalProvider)
    await payments.provider.run_once()
    while await payments.events.round():
        pass
    home = await console.get("/operator", "operator")
    assert "2 payments in 30 days" in home.words
    assert parse_usd("119") in [parse_usd(value) for value in home.values]
    listed = await console.get("/operator/payments", "operator")
    assert [parse_usd(value) for value in listed.values if Decimal(value)] == [parse_usd("99"), parse_usd("20")]
