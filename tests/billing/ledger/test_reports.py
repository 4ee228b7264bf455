from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.ledger.catalogue import sync_prices
from billing.ledger.debits import UsageEvent
from billing.ledger.explanations import EXACT_DECIMALS, decimal, exact_usd, explain, format_explanation
from billing.ledger.reports import EventFilter
from billing.ledger.sums import NOTHING, Used, roll
from billing.money import format_usd
from billing.pages import BadCursor
from billing.pricing import COST_SCALE, FACTOR_SCALE
from billing.usage import Usage
from tests.billing.support import PRICE, PRICES, Billing

SMALL = Usage(input_tokens=1000, output_tokens=100)
NOW = datetime.now(UTC).replace(microsecond=123_000)


async def customer(billing: Billing, name: str = "Acme", user_id: str | None = None) -> tuple[str, str]:
    account = await billing.accounts.create(name)
    key, _ = await billing.keys.create(account.id, "laptop", user_id=user_id)
    return account.id, key.id


async def test_transactions_are_signed_and_newest_first(billing):
    account_id, key_id = await customer(billing)
    other_id, other_key = await customer(billing, "Other")
    granted = await billing.grants.grant(account_id, 1_000_000_000, "welcome", "for a start")
    spent = await billing.debit(account_id, key_id, SMALL)
    await billing.debit(other_id, other_key, SMALL)
    page = await billing.reports.transactions(account_id, 10)
    usage, grant = page.items
    assert (usage.id, usage.kind, usage.amount_nano, usage.request_id) == (spent, "usage", -210_000, spent)
    assert (grant.id, grant.kind, grant.amount_nano) == (granted.transfer_id, "grant", 1_000_000_000)
    assert (grant.idempotency_key, grant.note, grant.request_id) == ("welcome", "for a start", None)
    assert sum(item.amount_nano for item in page.items) == (await billing.accounts.get(account_id)).balance_nano


async def test_transactions_come_in_pages_that_miss_and_repeat_nothing(billing):
    account_id, key_id = await customer(billing)
    made = []
    for n in range(4):
        made.append((await billing.grants.grant(account_id, 1, f"k{n}")).transfer_id)
        made.append(await billing.debit(account_id, key_id, SMALL))
    found = []
    after = None
    for _ in range(3):
        page = await billing.reports.transactions(account_id, 3, after)
        found += page.items
        after = page.next_after
    assert [item.id for item in found] == made[::-1]
    assert after is None
    running = list(accumulate(item.amount_nano for item in reversed(found)))
    assert [item.balance_nano for item in reversed(found)] == running
    with pytest.raises(BadCursor):
        await billing.reports.transactions(account_id, 3, found[0].id)


async def test_later_pages_are_those_of_the_list_as_it_was(billing):
    """A request is settled after the first page, and stands below it by its id: balances stay those of one moment."""
    account_id, key_id = await customer(billing)
    early = billing.new_id()
    for n in range(4):
        await billing.grants.grant(account_id, 100_000_000, f"k{n}")
    first = await billing.reports.transactions(account_id, 2)
    await replace(billing, new_id=lambda: early).debit(account_id, key_id, SMALL)
    second = await billing.reports.transactions(account_id, 3, first.next_after)
    assert [each.balance_nano for each in (*first.items, *second.items)] == [n * 100_000_000 for n in (4, 3, 2, 1)]
    assert early not in [each.id for each in second.items]
    anew = (await billing.reports.transactions(account_id, 10)).items
    assert [each.balance_nano for each in anew][-1] == -210_000  # which came below all grants
    assert anew[0].balance_nano == (await billing.accounts.get(account_id)).balance_nano
    seen = "SELECT seen_in($1::text::xid, $2::text::pg_snapshot)"
    round_again = f"{2**32 + 9}:{2**32 + 9}:"  # the numbers of rows begin anew
    cases = ((5, "9:9:", True), (9, "9:9:", False), (8, "7:9:8", False), (2**32 - 1, round_again, True))
    for writer, moment, is_seen in cases:
        assert await billing.database.value(seen, str(writer), moment) is is_seen, (writer, moment)


async def test_a_cursor_shows_no_balance_but_the_ledger_s(billing):
    """One that was changed, or that another account's list has given, is refused."""
    account_id, _ = await customer(billing)
    other_id, _ = await customer(billing, "Other")
    for n in range(4):
        await billing.grants.grant(account_id, 100, f"k{n}")
    after = (await billing.reports.transactions(account_id, 2)).next_after
    found, balance, seal, moment = after.split(":", 3)
    assert [each.balance_nano for each in (await billing.reports.transactions(account_id, 2, after)).items] == [
        200,
        100,
    ]
    seconds, _, rest = moment.partition(":")
    for forged in (
        f"{found}:{9 * 10**15}:{seal}:{moment}",
        f"{found}:-{balance}:{seal}:{moment}",
        f"{'7' + found[1:]}:{balance}:{seal}:{moment}",
        f"{found}:{balance}:{seal}:{int(seconds) - 1}:{rest}",
        f"{found}:{balance}:{seal}:",
        f"{found}:{balance}::{moment}",
        f"{found}:{balance}:{moment}",
        f"{found}:{balance}",
        found,
    ):
        with pytest.raises(BadCursor):
            await billing.reports.transactions(account_id, 2, forged)
    with pytest.raises(BadCursor):
        await billing.reports.transactions(other_id, 2, after)


async def test_events_of_one_moment_are_paged_exactly(billing):
    account_id, key_id = await customer(billing)
    made = [await billing.debit(account_id, key_id, SMALL, admitted_at=NOW) for _ in range(5)]
    newest = await billing.debit(account_id, key_id, SMALL, admitted_at=NOW + timedelta(seconds=1))
    found = []
    after = None
    for _ in range(3):
        page = await billing.reports.usage_events(account_id, 2, after)
        found += [event.request_id for event in page.items]
        after = page.next_after
    assert found == [newest, *made[::-1]]
    assert after is None


async def test_requests_of_a_key_are_found_among_those_of_all_accounts_at_once(billing, monkeypatch):
    monkeypatch.setattr("billing.ledger.reports.MOST_LOOKED_AT", 2)
    monkeypatch.setattr("billing.ledger.reports.ENOUGH_S", 0.0)
    account_id, key_id = await customer(billing)
    wanted = await billing.debit(account_id, key_id, SMALL, admitted_at=NOW)
    for _ in range(5):  # so many others came since that a page would end before it
        await billing.debit(*await customer(billing), SMALL, admitted_at=NOW + timedelta(seconds=1))
    found = await billing.reports.usage_events(None, 10, only=EventFilter(key_id=key_id))
    assert [event.request_id for event in found.items] == [wanted]
    assert found.next_after is None
    assert not (await billing.reports.usage_events(None, 10, only=EventFilter(key_id="none"))).items


@pytest.mark.parametrize("cursor", ["x", "12", "12.", ".a", "x.a", "9" * 40 + ".a"])
async def test_a_cursor_of_another_list_is_refused(billing, cursor):
    with pytest.raises(BadCursor):
        await billing.reports.usage_events("acc_none", 10, cursor)


async def test_an_explanation_adds_up(billing):
    await sync_prices(billing.database, PRICES)
    account_id, key_id = await customer(billing)
    usage = Usage(input_tokens=1003, cached_input_tokens=1, output_tokens=7, searches=2)
    request_id = await billing.debit(account_id, key_id, usage, multiplier="batch", markup_scaled=10 * FACTOR_SCALE)
    found = await billing.reports.priced_event(request_id)
    assert found is not None
    explanation = explain(*found)
    assert explanation.adds_up
    assert explanation.event.usage == usage
    assert explanation.price == PRICE
    exact = Decimal("0.5") * (1002 * Decimal("0.15") + Decimal("0.075") + 7 * Decimal("0.60")) / 10**6 + Decimal("0.01")
    assert Decimal(exact_usd(explanation.sum_scaled)) == exact
    assert explanation.event.cost_nano == ceil(exact * 10**9)
    assert sum(Decimal(exact_usd(line.amount_scaled)) for line in explanation.lines) == exact
    told = format_explanation(explanation)
    assert request_id in told
    assert "batch, each line times 0.5" in told
    assert "1002 at 0.15 USD a million = 0.00007515 USD" in told
    assert "2 at 0.01 USD each = 0.01 USD" in told
    assert "a markup of 10%" in told
    assert format_usd(explanation.event.charged_nano) in told
    assert "ledger" not in told


async def test_a_charge_that_counts_did_not_make_is_said_to_be_so(billing):
    await sync_prices(billing.database, PRICES)
    account_id, key_id = await customer(billing)
    request_id = await billing.debit(account_id, key_id, SMALL, charged_nano=5)
    found = await billing.reports.priced_event(request_id, account_id)
    assert found is not None
    explanation = explain(*found)
    assert not explanation.adds_up
    assert "a charge of 0.000000005 USD: not made from these counts" in format_explanation(explanation)


async def test_an_event_without_its_price_row_is_still_explained(billing):
    account_id, key_id = await customer(billing)
    found = await billing.reports.priced_event(await billing.debit(account_id, key_id, SMALL))
    assert found is not None
    explanation = explain(*found)
    assert (explanation.price, explanation.lines, explanation.adds_up) == (None, (), False)
    assert "the ledger has no such row" in format_explanation(explanation)


async def test_events_of_others_and_unknown_ones_are_none(billing):
    account_id, key_id = await customer(billing)
    other_id, _ = await customer(billing, "Other")
    request_id = await billing.debit(account_id, key_id, SMALL)
    assert await billing.reports.priced_event(request_id, other_id) is None
    assert await billing.reports.priced_event("none") is None


async def test_totals_by_account_key_and_user(billing):
    account_id, key_id = await customer(billing, user_id="ann")
    second, _ = await billing.keys.create(account_id, "second", user_id="ann")
    third, _ = await billing.keys.create(account_id, "third", user_id="bob")
    other_id, other_key = await customer(billing, "Other", user_id="ann")
    for key, user_id in ((key_id, "ann"), (second.id, "ann"), (third.id, "bob")):
        await billing.debit(account_id, key, SMALL, user_id=user_id)
    twice = 100 * FACTOR_SCALE
    await billing.debit(account_id, key_id, SMALL, admitted_at=NOW, markup_scaled=twice, user_id="ann")
    await billing.debit(other_id, other_key, SMALL, user_id="ann")

    cost = 210_000
    totals = billing.reports.usage_totals

    def used(requests, charged_nano):
        tokens = {"input_tokens": 1000 * requests, "output_tokens": 100 * requests}
        return Used(requests, **tokens, cost_nano=requests * cost, charged_nano=charged_nano)

    for rows in (0, 2, 1, 2):  # fresh, in both places, rolled up
        assert await roll(billing.database, rows, most_fresh=0) == rows
        assert await totals(account_id) == used(4, 5 * cost)
        assert await totals(account_id, key_id=key_id) == used(2, 3 * cost)
        assert await totals(account_id, user_id="ann") == used(3, 4 * cost)
        assert await totals(account_id, user_id="bob", key_id=key_id) == NOTHING
        assert await totals(account_id, key_id=other_key) == NOTHING
        assert (await totals(account_id)).total_tokens == 4400


async def test_a_database_that_is_empty_reads_as_nothing(billing):
    assert (await billing.reports.transactions("acc_none", 10)).items == ()
    assert (await billing.reports.usage_events("acc_none", 10)).items == ()
    assert await billing.reports.usage_totals("acc_none") == NOTHING


@given(st.integers(0, 10**40).map(lambda whole: whole * (COST_SCALE // 10**15)))
def test_exact_amounts_are_plain_and_exact(scaled):
    text = exact_usd(scaled)
    assert "e" not in text.lower()
    assert text == "0" or not text.endswith(".")
    whole, _, fraction = text.partition(".")
    assert int(whole + fraction.ljust(EXACT_DECIMALS, "0")) * (COST_SCALE // 10**15) == scaled
    assert not fraction.endswith("0")


@given(
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.sampled_from([None, "batch"]),
    st.integers(0, 500 * FACTOR_SCALE),
)
def test_lines_add_up_to_the_cost(input_tokens, output_tokens, multiplier, markup):
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    event = _event(usage, multiplier, markup)
    explanation = explain(event, PRICE)
    exact = sum((Fraction(exact_usd(line.amount_scaled)) for line in explanation.lines), Fraction(0))
    assert explanation.cost_nano == ceil(exact * 10**9)
    charged = exact * 10**9 * (1 + Fraction(decimal(markup, 9)) / 100)
    assert explanation.charged_nano == ceil(charged)


def _event(usage: Usage, multiplier: str | None, markup_scaled: int) -> UsageEvent:
    return UsageEvent(
        request_id="r",
        admitted_at=NOW,
        outcome="settled",
        account_id="a",
        user_id=None,
        key_id="k",
        client_request_id=None,
        upstream_request_id=None,
        endpoint="/v1/chat/completions",
        feature="llm",
        model="fast",
        provider="openai",
        provider_model="gpt-4o-mini",
        usage=usage,
        cost_nano=0,
        charged_nano=0,
        price_id=PRICE.id,
        multiplier=multiplier,
        markup_scaled=markup_scaled,
        estimated=False,
        status=200,
        stream=False,
        latency_ms=None,
        ttft_ms=None,
        tags={},
        end_user=None,
        note=None,
    )
