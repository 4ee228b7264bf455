"""Coupons: once for an account, no oftener than allowed, however many try at once; guessing has to wait."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from billing import audit
from billing.accounts.grants import Lots, Terms
from billing.identity.codes import Codes, TooManyTries
from billing.identity.organizations import Members
from billing.ledger.verify import verify
from billing.payments.coupons import CouponNotFound, CouponRefused, Coupons, CouponUsed, NewCoupon
from billing.settings import CodeSettings
from tests.billing.identity.support import acting, join, new_organization, new_user
from tests.billing.payments.test_balances import DAY, START, Clock
from tests.billing.support import Billing, changes_told

ANA = audit.Actor("user:usr_ana")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def coupons(billing: Billing, clock: Clock) -> Coupons:
    codes = Codes(billing.database, billing.new_id, CodeSettings(sign_in_failures=4))
    return Coupons(billing.database, billing.grants, billing.change_notifier, codes, billing.new_id, clock)


async def accounts(billing: Billing, count: int) -> list[str]:
    return [(await billing.accounts.create(f"A{n}")).id for n in range(count)]


async def test_a_code_is_credit_once_for_an_account(billing, coupons, clock):
    one, two = await accounts(billing, 2)
    new = NewCoupon("Spring", 5_000_000_000, priority=10, credit_days=30, expires_at=START + DAY)
    _, code = await coupons.create(new)
    assert len(code.replace("-", "")) == 16
    with changes_told(billing.change_notifier, ("balance", one)):
        redeemed = await coupons.redeem(one, code.lower().replace("-", " "), actor=ANA)
        with pytest.raises(CouponUsed, match="already redeemed the coupon at 20"):
            await coupons.redeem(one, code, actor=ANA)
    assert (redeemed.grant.balance_nano, redeemed.grant.replayed) == (5_000_000_000, False)
    (lot,) = (await Lots(billing.database).page(one, 9)).items
    assert lot.terms == Terms(10, promotional=True, expires_at=START + timedelta(days=30))
    stored = await billing.database.rows("SELECT * FROM coupons")
    assert code.replace("-", "") not in repr([dict(row) for row in stored])
    entries = await billing.database.rows(
        "SELECT actor, action FROM audit_log WHERE action IN ('coupon.create', 'account.grant')"
    )
    assert [(row["actor"], row["action"]) for row in entries] == [
        ("admin", "coupon.create"),
        (ANA.name, "account.grant"),
    ]
    clock.at += DAY
    with pytest.raises(CouponRefused, match="valid until 2027-02-01"):
        await coupons.redeem(two, code, actor=ANA)
    assert [each.redemptions for each in (await coupons.page(5)).items] == [1]
    assert (await verify(billing.database)).ok


async def test_who_founds_more_organizations_redeems_it_once(billing, coupons):
    ada, bob = await new_user(billing, "ada@example.com"), await new_user(billing, "bob@example.com")
    first, second, other = [await new_organization(billing, "Acme", who) for who in (ada, ada, bob)]
    _, code = await coupons.create(NewCoupon("Spring", 100))
    await coupons.redeem(first.account_id, code, actor=ANA)
    with pytest.raises(CouponUsed, match="Another organization of its owner"):
        await coupons.redeem(second.account_id, code, actor=audit.Actor("key:key_1"))
    assert (await coupons.redeem(other.account_id, code, actor=ANA)).grant.balance_nano == 100


async def test_who_gives_an_organization_away_has_had_it(billing, coupons):
    """Whoever typed the code: owners count, then and now."""
    ada, bob, eve = [await new_user(billing, f"{name}@example.com") for name in ("ada", "bob", "eve")]
    first = await new_organization(billing, "Acme", ada)
    _, code = await coupons.create(NewCoupon("Spring", 100))
    await coupons.redeem(first.account_id, code, actor=audit.Actor("key:key_1"))
    await join(billing, first, bob, "member")
    await Members(billing.database, billing.change_notifier, most_owned=9).transfer(
        first.id, bob, "viewer", acting(ada)
    )
    for owner in (ada, bob):
        again = await new_organization(billing, "Again", owner)
        with pytest.raises(CouponUsed, match="Another organization of its owner"):
            await coupons.redeem(again.account_id, code, actor=audit.Actor("key:key_2"))
    await coupons.redeem(
        (await new_organization(billing, "Other", eve)).account_id, code, actor=audit.Actor(f"user:{ada}")
    )


async def test_no_more_accounts_than_it_is_for(billing, coupons):
    _, code = await coupons.create(NewCoupon("Few", 100, "FIRST-TWO", most_redemptions=2))
    assert code == "FIRST-TWO"
    with pytest.raises(CouponUsed, match="another one"):
        await coupons.create(NewCoupon("Again", 100, "firsttwo"))
    many = await accounts(billing, 5)
    tried = [coupons.redeem(account, "firsttwo", actor=ANA) for account in (*many, *many)]
    done = await asyncio.gather(*tried, return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in done) == 2
    assert all(isinstance(each, CouponRefused | CouponUsed) for each in done if isinstance(each, BaseException))
    balances = [(await billing.accounts.get(account)).balance_nano for account in many]
    assert sorted(balances) == [0, 0, 0, 100, 100]


async def test_a_disabled_one_gives_nothing_more(billing, coupons):
    one, two = await accounts(billing, 2)
    coupon, code = await coupons.create(NewCoupon("Spring", 100))
    await coupons.redeem(one, code, actor=ANA)
    await billing.accounts.update(two, status="closed")
    with pytest.raises(CouponRefused, match="account is closed"):
        await coupons.redeem(two, code, actor=ANA)
    await billing.accounts.update(two, status="active")
    assert (await coupons.disable(coupon.id)).disabled_at == (await coupons.disable(coupon.id)).disabled_at
    with pytest.raises(CouponRefused, match="no longer valid"):
        await coupons.redeem(two, code, actor=ANA)
    assert (await billing.accounts.get(one)).balance_nano == 100
    with pytest.raises(CouponNotFound):
        await coupons.disable("cpn_none")


async def test_guessing_has_to_wait(billing, coupons):
    one, two = await accounts(billing, 2)
    _, code = await coupons.create(NewCoupon("Spring", 100))
    for _ in range(4):
        with pytest.raises(CouponNotFound, match="no such coupon"):
            await coupons.redeem(one, "WRONGCODE", actor=ANA)
    with pytest.raises(TooManyTries, match="whoever gave you the code"):
        await coupons.redeem(one, code, actor=ANA)
    await coupons.redeem(two, code, actor=ANA)


async def test_who_guesses_by_many_accounts_of_one_network_has_to_wait(billing, coupons, monkeypatch):
    monkeypatch.setattr("billing.payments.coupons.OF_A_NETWORK", 3)
    there, elsewhere = replace(ANA, address="192.0.2.7"), replace(ANA, address="192.0.2.8")
    codes = [(await coupons.create(NewCoupon(f"Spring {number}", 100)))[1] for number in range(2)]
    one, *others = await accounts(billing, 5)
    for wrong, right in zip(others[:2], codes, strict=True):  # what succeeds counts nothing, and clears nothing
        with pytest.raises(CouponNotFound):
            await coupons.redeem(wrong, "WRONGCODE", actor=there)
        await coupons.redeem(one, right, actor=there)
    with pytest.raises(CouponNotFound):
        await coupons.redeem(others[2], "WRONGCODE", actor=there)
    with pytest.raises(TooManyTries):
        await coupons.redeem(others[3], codes[0], actor=there)
    await coupons.redeem(others[3], codes[0], actor=elsewhere)


@pytest.mark.parametrize("code", ["short", "a" * 65, "with_underscore", "ümlaut99"])
async def test_what_can_be_no_code(coupons, code):
    with pytest.raises(CouponRefused, match="6 to 64"):
        await coupons.create(NewCoupon("Spring", 100, code))
