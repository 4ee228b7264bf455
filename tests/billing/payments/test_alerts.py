"""An account is told once for each time that its balance falls below the threshold."""

from typing import Final

import pytest

from billing import audit
from billing.accounts.accounts import AccountNotFound
from billing.payments import alerts as module
from billing.payments.alerts import Alert, Alerts
from tests.billing.support import Billing

USD: Final = 1_000_000_000


async def told(billing: Billing) -> list[tuple[str, str, str]]:
    rows = await billing.database.rows("SELECT account_id, data FROM notices WHERE type = 'balance.low'")
    return [(row["account_id"], row["data"]["available_usd"], row["data"]["threshold_usd"]) for row in rows]


async def test_once_for_each_crossing(billing: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKED_AT", 2)
    alerts = Alerts(billing.database, 5 * USD)
    poor, rich, own = [(await billing.accounts.create(name)).id for name in ("Poor", "Rich", "Own")]

    async def look() -> int:
        return sum([await alerts.round() for _ in range(2)])  # two rounds see all three

    async def move(account_id: str, usd: int, key: str) -> None:
        await billing.grants.adjust(account_id, usd * USD, key, "test")

    await move(rich, 10, "a")
    await move(own, 10, "a")
    await alerts.put(own, 20 * USD, actor=audit.ADMIN)
    assert await look() == 0  # none was above before
    await move(rich, -6, "b")
    assert [await look(), await look()] == [1, 0]
    await move(rich, -1, "c")
    assert await look() == 0
    await move(rich, 7, "d")
    await move(own, 15, "d")
    assert await look() == 0
    await move(rich, -6, "e")
    await move(own, -6, "e")
    assert [await look(), await look()] == [2, 0]
    crossings = [(rich, "4.00", "5.00"), (rich, "4.00", "5.00"), (own, "19.00", "20.00")]
    assert sorted(await told(billing)) == sorted(crossings)
    assert poor not in {account_id for account_id, _, _ in await told(billing)}


async def test_a_credit_limit_counts_as_what_may_be_spent(billing: Billing) -> None:
    alerts = Alerts(billing.database, 5 * USD)
    account = (await billing.accounts.create("Invoiced", credit_limit_nano=20 * USD)).id
    assert await alerts.round() == 0
    await billing.grants.adjust(account, -16 * USD, "used", "debits")
    assert await alerts.round() == 1
    assert await told(billing) == [(account, "4.00", "5.00")]


async def test_a_threshold_is_set_and_given_up(billing: Billing) -> None:
    alerts = Alerts(billing.database, 5 * USD)
    account = (await billing.accounts.create("Acme")).id
    assert await alerts.get(account) == Alert(5 * USD, is_default=True, armed=False)
    assert await alerts.put(account, 7, actor=audit.ADMIN) == Alert(7, is_default=False, armed=False)
    assert (await alerts.put(account, None, actor=audit.ADMIN)).is_default
    with pytest.raises(AccountNotFound):
        await alerts.put("acc_none", 7, actor=audit.ADMIN)
    said = await billing.database.rows("SELECT before, after FROM audit_log WHERE action = 'account.alert' ORDER BY id")
    assert [row["after"] for row in said] == [{"threshold_usd": "0.000000007"}, {"threshold_usd": None}]
