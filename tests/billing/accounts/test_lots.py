"""Lots: debits in any order draw the same as in a model that applies each debit at once."""

import asyncio
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import audit
from billing.accounts.accounts import Accounts
from billing.accounts.grants import PAID, PROMOTIONS, Entry, Grants, LotNotFound, Lots, Terms, find_lot, lot_id
from billing.database.connection import Database
from billing.ledger.verify import verify
from tests.billing.support import PLANS, RecordingEffects, rising_ids
from tests.support.loop_thread import LoopThread

# All that a debit changes of what lots are about.
DEBIT = "UPDATE accounts SET balance_nano = balance_nano - $2 WHERE id = $1"
DAY = timedelta(days=1)
START = datetime(2027, 1, 31, tzinfo=UTC)
# A raise with its priority, whether it is promotional and the days until it expires (0: never); a debit; an adjustment
# downwards; what is taken of a certain lot, as a dispute does.
STEPS = st.one_of(
    st.tuples(st.just("raise"), st.integers(1, 90), st.tuples(st.integers(0, 1), st.booleans(), st.integers(0, 2))),
    st.tuples(st.just("debit"), st.integers(1, 60), st.none()),
    st.tuples(st.just("fall"), st.integers(1, 60), st.none()),
    st.tuples(st.just("take"), st.integers(1, 60), st.integers(0, 5)),
)


@dataclass
class Model:
    """Lots that each debit draws on at once: id -> what is left; and debt."""

    terms: dict[str, Terms] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    debt: int = 0

    def raised(self, lot: str, amount: int, terms: Terms) -> None:
        paid = min(self.debt, amount)
        self.debt -= paid
        self.terms[lot], self.left[lot] = terms, amount - paid

    def fall(self, amount: int, first: str | None = None) -> None:
        def order(lot: str) -> tuple[object, ...]:
            terms = self.terms[lot]
            return (
                lot != first,
                terms.priority,
                terms.expires_at or datetime.max.replace(tzinfo=UTC),
                not terms.promotional,
            )

        for lot in sorted(self.left, key=order):  # the oldest first of those that are equal
            drawn = min(self.left[lot], amount)
            self.left[lot] -= drawn
            amount -= drawn
        self.debt += amount


async def play(grants: Grants, accounts: Accounts, database: Database, steps: list[tuple[str, int, object]]) -> None:
    account = (await accounts.create("Acme")).id
    model, numbers, lots = Model(), itertools.count(), Lots(database)

    async def change(delta: int, kind: str, terms: Terms = PAID, of_lot: str | None = None) -> str:
        key = f"k{next(numbers)}"
        attribution = "tests", f"{account}:{key}", None
        entry = Entry(account, delta, PROMOTIONS, kind, *attribution, terms=terms, of_lot=of_lot)
        async with database.transaction() as connection:
            return (await grants.record(connection, entry, audit.SYSTEM)).transfer_id

    for what, amount, more in steps:
        match what, more:
            case "raise", (int(priority), bool(promotional), int(days)):
                terms = Terms(priority, promotional, START + days * DAY if days else None)
                model.raised(lot_id(await change(amount, "grant", terms)), amount, terms)
            case "debit", _:
                await database.execute(
                    "UPDATE accounts SET balance_nano = balance_nano - $2 WHERE id = $1", account, amount
                )
                model.fall(amount)
            case "fall", _:
                await change(-amount, "adjustment")
                model.fall(amount)
            case "take", int(place) if model.left:
                of_lot = list(model.left)[place % len(model.left)]
                await change(-amount, "dispute", of_lot=of_lot)
                model.fall(amount, of_lot)
        found = {lot.id: lot.left_nano for lot in (await lots.page(account, 100)).items}
        assert found == model.left
        balance = await database.value("SELECT balance_nano FROM accounts WHERE id = $1", account)
        assert balance == sum(found.values()) - model.debt


def test_lots_are_those_of_a_model_that_draws_each_debit_at_once(database_url):
    thread, database = LoopThread(), Database(database_url)
    effects, new_id = RecordingEffects(), rising_ids()
    grants, accounts = Grants(database, effects, new_id), Accounts(database, PLANS, effects, new_id)

    @settings(max_examples=40)
    @given(st.lists(STEPS, max_size=12))
    def any_sequence(steps):
        thread.run(play(grants, accounts, database, steps))

    async def lots_differ():
        return {check.name: check for check in (await verify(database)).checks}["lots"].differences

    try:
        any_sequence()
        assert thread.run(lots_differ()) == 0
    finally:
        thread.run(database.close())
        thread.close()


async def test_raises_and_draws_at_the_same_time(billing):
    """Grants, refunds and adjustments race with debits: nothing is left over and nothing is missing."""
    account = (await billing.accounts.create("Acme")).id

    async def debit(amount):
        await billing.database.execute(DEBIT, account, amount)

    await asyncio.gather(
        *(billing.grants.grant(account, 100 + n, f"g{n}") for n in range(8)),
        *(billing.grants.refund(account, 5, f"r{n}") for n in range(4)),
        *(billing.grants.adjust(account, -7, f"a{n}", "wrong") for n in range(4)),
        *(debit(30) for _ in range(12)),
    )
    found = (await Lots(billing.database).page(account, 100)).items
    balance = (await billing.accounts.get(account)).balance_nano
    assert sum(lot.left_nano for lot in found) == balance == sum(100 + n for n in range(8)) + 20 - 28 - 360
    assert {lot.kind for lot in found} == {"grant", "refund"}
    assert [lot.terms.promotional for lot in found if lot.kind == "refund"] == [False] * 4


async def test_pages_the_next_expiry_and_one_lot(billing):
    account, lots = (await billing.accounts.create("Acme")).id, Lots(billing.database)
    assert (await lots.next_expiry(account), (await lots.page(account, 5)).items) == (None, ())
    soon = Terms(promotional=True, expires_at=START)
    made = [await billing.grants.grant(account, 10, f"g{n}", terms=soon if n < 2 else PAID) for n in range(4)]
    await billing.grants.adjust(account, -15, "less", "wrong")
    first = await lots.page(account, 3)
    rest = await lots.page(account, 3, first.next_after)
    assert [lot.left_nano for lot in (*first.items, *rest.items)] == [10, 10, 5, 0]
    assert [lot.left_nano for lot in (await lots.page(account, 9, open_only=True)).items] == [10, 10, 5]
    expiry = await lots.next_expiry(account)
    assert (expiry.at, expiry.left_nano) == (START, 5)
    async with billing.database.transaction() as connection:
        lot = await find_lot(connection, account, made[1].transfer_id)
        assert (lot.left_nano, lot.terms, lot.id) == (5, soon, lot_id(made[1].transfer_id))
        with pytest.raises(LotNotFound, match="no lot"):
            await find_lot(connection, "acc_other", lot.id)


def test_terms_are_checked():
    with pytest.raises(ValueError, match="0 to 100"):
        Terms(priority=101)
    with pytest.raises(ValueError, match="time zone"):
        Terms(expires_at=datetime(2027, 1, 1))  # noqa: DTZ001
