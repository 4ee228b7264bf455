import asyncio

import pytest

from billing.accounts.grants import BalanceOutOfBounds, IdempotencyConflict
from billing.errors import AccountNotFound
from billing.money import MAX_NANO
from tests.billing.support import Billing, changes_told

USD = 1_000_000_000


async def counts(billing: Billing, account_id: str) -> tuple[int, int, int]:
    """Balance, number of transfers, number of the last correction."""
    row = await billing.database.row(
        "SELECT balance_nano, xseq, (SELECT count(*) FROM transfers WHERE credit_account = $1) AS transfers "
        "FROM accounts WHERE id = $1",
        account_id,
    )
    return row["balance_nano"], row["transfers"], row["xseq"]


async def test_a_grant_moves_the_balance_and_leaves_its_traces(billing, account):
    with changes_told(billing.change_notifier, ("balance", account.id)):
        result = await billing.grants.grant(account.id, 5 * USD, "welcome", "for a start")
    assert (result.amount_nano, result.balance_nano, result.replayed) == (5 * USD, 5 * USD, False)
    transfer = await billing.database.row("SELECT * FROM transfers WHERE id = $1", result.transfer_id)
    assert (transfer["debit_account"], transfer["credit_account"]) == ("sys:promotions", account.id)
    assert (transfer["amount_nano"], transfer["kind"], transfer["note"]) == (5 * USD, "grant", "for a start")
    assert (transfer["idempotency_scope"], transfer["idempotency_key"]) == (f"admin:{account.id}", "welcome")
    correction = await billing.database.row("SELECT * FROM corrections WHERE account_id = $1", account.id)
    assert (correction["xseq"], correction["delta_nano"], correction["request_id"]) == (1, 5 * USD, None)
    assert await counts(billing, account.id) == (5 * USD, 1, 1)
    assert (await billing.accounts.get(account.id)).version == 1
    audit = await billing.database.row("SELECT * FROM audit_log WHERE action = 'account.grant'")
    assert audit["before"] == {"balance_usd": "0.00"}
    assert audit["after"] == {"balance_usd": "5.00", "transfer_id": result.transfer_id, "note": "for a start"}


async def test_corrections_are_numbered_without_a_gap(billing, account):
    await asyncio.gather(*(billing.grants.grant(account.id, n + 1, f"k{n}") for n in range(12)))
    rows = await billing.database.rows(
        "SELECT xseq, delta_nano FROM corrections WHERE account_id = $1 ORDER BY xseq", account.id
    )
    assert [row["xseq"] for row in rows] == list(range(1, 13))
    assert sum(row["delta_nano"] for row in rows) == sum(range(1, 13))
    assert await counts(billing, account.id) == (sum(range(1, 13)), 12, 12)


async def test_the_same_again_gets_the_first_answer(billing, account):
    first = await billing.grants.grant(account.id, 5 * USD, "welcome", "x")
    await billing.grants.grant(account.id, 1 * USD, "more")
    with changes_told(billing.change_notifier):
        again = await billing.grants.grant(account.id, 5 * USD, "welcome", "x")
    assert again.replayed
    assert (again.transfer_id, again.balance_nano) == (first.transfer_id, first.balance_nano)
    assert await counts(billing, account.id) == (6 * USD, 2, 2)


async def test_twenty_at_once_are_one(billing, account):
    with changes_told(billing.change_notifier, ("balance", account.id)):
        results = await asyncio.gather(*(billing.grants.grant(account.id, 5 * USD, "welcome") for _ in range(20)))
    assert len({(result.transfer_id, result.balance_nano) for result in results}) == 1
    assert sum(not result.replayed for result in results) == 1
    assert await counts(billing, account.id) == (5 * USD, 1, 1)


@pytest.mark.parametrize(("amount_nano", "note"), [(6 * USD, "x"), (5 * USD, "y"), (5 * USD, None)])
async def test_the_same_key_with_another_body_conflicts(billing, account, amount_nano, note):
    await billing.grants.grant(account.id, 5 * USD, "welcome", "x")
    with pytest.raises(IdempotencyConflict), changes_told(billing.change_notifier):
        await billing.grants.grant(account.id, amount_nano, "welcome", note)
    assert await counts(billing, account.id) == (5 * USD, 1, 1)


async def test_keys_are_unique_per_account_and_scope(billing):
    one, two = await billing.accounts.create("One"), await billing.accounts.create("Two")
    await billing.grants.grant(one.id, 1, "welcome")
    assert not (await billing.grants.grant(two.id, 2, "welcome")).replayed
    assert not (await billing.grants.grant(one.id, 3, "welcome", scope="payments")).replayed
    assert (await counts(billing, one.id))[0] == 4


async def test_a_balance_keeps_its_bound(billing, account):
    await billing.grants.grant(account.id, MAX_NANO - 1, "nearly")
    with pytest.raises(BalanceOutOfBounds, match="bound"), changes_told(billing.change_notifier):
        await billing.grants.grant(account.id, 2, "too much")
    assert await counts(billing, account.id) == (MAX_NANO - 1, 1, 1)
    assert (await billing.grants.grant(account.id, 1, "too much")).balance_nano == MAX_NANO


async def test_amounts_above_zero_only(billing, account):
    for amount_nano in (0, -1, MAX_NANO + 1):
        with pytest.raises(ValueError, match="amount"):
            await billing.grants.grant(account.id, amount_nano, "welcome")
    assert await counts(billing, account.id) == (0, 0, 0)


async def test_an_unknown_account_is_not_found(billing):
    with pytest.raises(AccountNotFound):
        await billing.grants.grant("acc_none", 1, "welcome")


async def test_a_refund_gives_back_of_the_revenue_and_is_audited(billing, account):
    first = await billing.grants.refund(account.id, 2 * USD, "sorry", "an outage")
    again = await billing.grants.refund(account.id, 2 * USD, "sorry", "an outage")
    assert (first.balance_nano, again.transfer_id, again.replayed) == (2 * USD, first.transfer_id, True)
    transfer = await billing.database.row("SELECT * FROM transfers WHERE id = $1", first.transfer_id)
    assert (transfer["debit_account"], transfer["credit_account"]) == ("sys:revenue", account.id)
    assert (transfer["kind"], transfer["note"], transfer["amount_nano"]) == ("refund", "an outage", 2 * USD)
    actions = await billing.database.rows("SELECT action, actor FROM audit_log WHERE subject = $1", account.id)
    assert [(row["action"], row["actor"]) for row in actions].count(("account.refund", "admin")) == 1
    with pytest.raises(IdempotencyConflict):
        await billing.grants.grant(account.id, 2 * USD, "sorry", "an outage")
