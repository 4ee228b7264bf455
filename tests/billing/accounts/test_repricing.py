"""Requests are charged by another price to the nano-USD, once, by transfers; and the ledger stays provable."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from billing.accounts.grants import BalanceOutOfBounds
from billing.accounts.repricing import Period, PriceNotFound, Repricing
from billing.ledger.catalogue import sync_prices
from billing.ledger.debits import Debit, encode_shares, share_of
from billing.ledger.verify import verify
from billing.ledger.writer import write_debits
from billing.money import MAX_NANO, parse_usd
from billing.pages import BadCursor
from billing.pricing import FACTOR_SCALE, PriceTable, round_up
from billing.usage import Usage
from tests.billing.support import PRICE, Billing, changes_told

USD = 10**9
USAGE = Usage(input_tokens=1001, cached_input_tokens=100, output_tokens=53, searches=2)
DEARER = replace(PRICE, per_million={**PRICE.per_million, "output": parse_usd("0.70")})
CHEAPER = replace(PRICE, per_million={**PRICE.per_million, "input": parse_usd("0.123456789")})
FULL = replace(PRICE, multipliers=None, per_million={"input": parse_usd("1"), "output": parse_usd("1")})
DAY = timedelta(days=1)


@pytest.fixture
async def account_id(billing: Billing) -> str:
    for row in (PRICE, DEARER, CHEAPER, FULL):
        await sync_prices(billing.database, PriceTable([row]))
    account = await billing.accounts.create("Acme")
    await billing.grants.grant(account.id, 5 * USD, "first")
    return account.id


@pytest.fixture
def repricing(billing: Billing) -> Repricing:
    return Repricing(billing.database, billing.change_notifier, billing.new_id, lambda: PriceTable([DEARER]))


def period(**fields: object) -> Period:
    now = datetime.now(UTC)
    return Period(**{"provider": "openai", "model": PRICE.model, "since": now - DAY, "until": now + DAY, **fields})


async def balance(billing: Billing, account_id: str) -> int:
    return (await billing.accounts.get(account_id)).balance_nano


async def test_the_difference_is_charged_to_the_nano(billing, repricing, account_id):
    markup = 20 * FACTOR_SCALE
    requests = [
        await billing.debit(account_id, "key_1", USAGE),
        await billing.debit(account_id, "key_1", USAGE, multiplier="batch"),
        await billing.debit(account_id, "key_1", USAGE, markup_scaled=markup),
    ]
    expected = [
        round_up(DEARER.cost_scaled(USAGE)),
        round_up(DEARER.cost_scaled(USAGE, "batch")),
        round_up(DEARER.cost_scaled(USAGE), markup),
    ]
    before = await balance(billing, account_id)
    with changes_told(billing.change_notifier):
        compared = await repricing.compare(period(), 50)
    assert [line.request_id for line in compared.lines] == requests
    assert [line.would_be_nano for line in compared.lines] == expected
    assert {line.transfer_id for line in compared.lines} == {None}
    assert await balance(billing, account_id) == before
    with changes_told(billing.change_notifier, ("balance", account_id)):
        corrected = await repricing.correct(period(), 50, reason="the list was wrong")
    more = sum(line.difference_nano for line in corrected.lines)
    assert more > 0
    assert await balance(billing, account_id) == before - more == 5 * USD - sum(expected)
    transfer = await billing.database.row("SELECT * FROM transfers WHERE id = $1", corrected.lines[1].transfer_id)
    assert (transfer["debit_account"], transfer["credit_account"]) == (account_id, "sys:revenue")
    assert (transfer["kind"], transfer["note"], transfer["request_id"]) == (
        "adjustment",
        "the list was wrong",
        requests[1],
    )
    assert transfer["idempotency_key"] == f"reprice:{requests[1]}:{DEARER.id}"
    assert transfer["metadata"] == {"price_id_before": PRICE.id, "price_id": DEARER.id}
    audited = await billing.database.row("SELECT * FROM audit_log WHERE action = 'account.reprice'")
    assert (audited["after"]["requests"], audited["after"]["price_ids"]) == (3, [DEARER.id])
    assert (await verify(billing.database)).ok


async def test_twice_changes_nothing_and_back_is_back(billing, repricing, account_id):
    for _ in range(3):
        await billing.debit(account_id, "key_1", USAGE)
    first = await balance(billing, account_id)
    balances = []
    for price in (CHEAPER, CHEAPER, DEARER, PRICE, CHEAPER, DEARER, PRICE):
        await repricing.correct(period(price_id=price.id), 50)
        with changes_told(billing.change_notifier):
            again = await repricing.correct(period(price_id=price.id), 50)
        assert {line.difference_nano for line in again.lines} == {0}
        balances.append(await balance(billing, account_id))
    assert balances[0] == balances[1] == balances[4] > first
    assert balances[2] == balances[5] < first
    assert balances[3] == balances[6] == first
    assert (await verify(billing.database)).ok


async def test_at_once_it_is_done_once(billing, repricing, account_id):
    await billing.debit(account_id, "key_1", USAGE)
    expected = 5 * USD - round_up(DEARER.cost_scaled(USAGE))
    done = await asyncio.gather(*(repricing.correct(period(), 50) for _ in range(8)))
    assert sum(line.transfer_id is not None for batch in done for line in batch.lines) == 1
    assert await balance(billing, account_id) == expected


async def test_batches_go_on_where_they_were_broken_off(billing, repricing, account_id):
    other = (await billing.accounts.create("Other")).id
    at = datetime.now(UTC) - timedelta(minutes=1)
    made = {await billing.debit(each, "key_1", USAGE, admitted_at=at) for each in (account_id, other) for _ in range(5)}
    seen = []
    after = None
    for _ in range(5):
        batch = await repricing.correct(period(), 2, after)
        seen += [line.request_id for line in batch.lines]
        after = batch.next_after
    assert after is None
    assert len(seen) == len(set(seen)) == 10
    assert set(seen) == made
    left = await repricing.compare(period(), 50)
    assert {line.difference_nano for line in left.lines} == {0}
    assert await balance(billing, other) == -5 * round_up(DEARER.cost_scaled(USAGE))


async def test_only_what_is_asked_for(billing, repricing, account_id):
    other = (await billing.accounts.create("Other")).id
    await billing.debit(other, "key_1", USAGE)
    old = await billing.debit(account_id, "key_1", USAGE, admitted_at=datetime.now(UTC) - 2 * DAY)
    new = await billing.debit(account_id, "key_1", USAGE)

    async def found(**fields):
        return [line.request_id for line in (await repricing.compare(period(**fields), 50)).lines]

    assert await found(account_id=account_id) == [new]
    assert await found(account_id=account_id, since=datetime.now(UTC) - 3 * DAY) == [old, new]
    assert await found(model="gpt-4o") == await found(provider="azure") == []
    assert len(await found()) == 2


@pytest.fixture
def debit(account_id: str, billing: Billing) -> Callable[..., Debit]:
    def made(**fields: object) -> Debit:
        values = {
            **dict.fromkeys(Debit.__struct_fields__),
            **{"request_id": billing.new_id(), "admitted_at_ms": int(datetime.now(UTC).timestamp() * 1000)},
            **{"outcome": "settled", "account_id": account_id, "key_id": "key_1", "endpoint": "/v1/responses"},
            **{"feature": "llm", "model": "router", "provider": "openai", "provider_model": PRICE.model},
            **dict.fromkeys(("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens"), 0),
            **{"reasoning_tokens": 0, "cost_nano": 0, "charged_nano": 0, "price_id": PRICE.id, "markup_scaled": 0},
            **{"estimated": False, "status": 200, "stream": False, "layout": 1, **fields},
        }
        return Debit(**values)

    return made


async def test_of_several_models_one_gets_its_price(billing, repricing, account_id, debit):
    other = replace(PRICE, model="judge", effective_from=date(2025, 1, 1))
    await sync_prices(billing.database, PriceTable([other]))
    judged = Usage(input_tokens=300, output_tokens=7)
    shares = encode_shares([share_of("judge", judged, other.id, None), share_of(PRICE.model, USAGE, PRICE.id, None)])
    cost = round_up(other.cost_scaled(judged) + PRICE.cost_scaled(USAGE))
    total = {"input_tokens": 1301, "cached_input_tokens": 100, "output_tokens": 60}
    counts = '{"searches": 2}'
    both = debit(
        by_model=shares,
        layout=2,
        provider_model="judge",
        price_id=other.id,
        cost_nano=cost,
        charged_nano=cost,
        counts=counts,
        **total,
    )
    await write_debits(billing.database, [both])
    (line,) = (await repricing.correct(period(), 50)).lines
    assert (line.charged_nano, line.left) == (cost, None)
    assert line.would_be_nano == round_up(other.cost_scaled(judged) + DEARER.cost_scaled(USAGE))
    assert (await verify(billing.database)).ok


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"estimated": True, "charged_nano": 5000}, "not made from its counts"),
        ({"price_id": "price_gone", "charged_nano": 150, "cost_nano": 150}, "not made from its counts"),
        ({"outcome": "expired", "input_tokens": 0}, "nothing was charged"),
        ({"estimated": True, "input_tokens": 0}, "nothing was charged"),
        ({"multiplier": "batch", "cost_nano": 75, "charged_nano": 75}, "no variant batch"),
    ],
)
async def test_what_can_not_be_told_is_left(billing, repricing, debit, fields, why):
    await write_debits(billing.database, [debit(**{"input_tokens": 1, **fields})])
    with changes_told(billing.change_notifier):
        (line,) = (await repricing.correct(period(price_id=FULL.id), 50)).lines
    assert why in (line.left or "")
    assert line.difference_nano == 0


async def test_a_time_without_a_price_is_left(billing, account_id):
    await billing.debit(account_id, "key_1", USAGE)
    later = PriceTable([replace(DEARER, effective_from=date(2999, 1, 1))])
    repricing = Repricing(billing.database, billing.change_notifier, billing.new_id, lambda: later)
    (line,) = (await repricing.correct(period(), 50)).lines
    assert (line.price_id, line.difference_nano) == (None, 0)
    assert "no row" in (line.left or "")


async def test_what_is_refused(billing, repricing, account_id):
    assert (await repricing.compare(period(until=datetime.now(UTC) - 9 * DAY), 50)).lines == ()
    with pytest.raises(PriceNotFound, match="no price row"):
        await repricing.compare(period(price_id="price_none"), 50)
    for model in ("other", f"{PRICE.model}-mini"):  # which this row has no price for: all would be free
        with pytest.raises(PriceNotFound, match=f"of openai/{model}"):
            await repricing.compare(period(price_id=FULL.id, model=model), 50)
    with pytest.raises(BadCursor):
        await repricing.compare(period(), 50, "x.y.z")
    await billing.debit(account_id, "key_1", USAGE)
    await billing.grants.adjust(account_id, -await balance(billing, account_id), "to 0", "down")
    await billing.grants.adjust(account_id, -MAX_NANO, "to the bound", "down")
    before = await balance(billing, account_id)
    with pytest.raises(BalanceOutOfBounds):
        await repricing.correct(period(), 50)
    assert await balance(billing, account_id) == before
