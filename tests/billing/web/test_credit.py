"""Credit through the console: lots in the order of their use, an order paid at the local provider, auto-recharge in
words, and the balance after each transaction."""

import re
from datetime import UTC, datetime

from billing.audit import ADMIN
from billing.ledger.catalogue import sync_prices
from billing.money import format_usd, parse_usd
from billing.payments.coupons import NewCoupon
from billing.payments.local.provider import GOOD
from billing.schemas.credit import LotShape
from billing.usage import Usage
from billing.web.credit import in_order
from tests.billing.support import PRICES
from tests.billing.web.support import press

NANO = 10**9


def lot(id: str, priority: int, expires_at: str | None, *, promotional: bool) -> LotShape:
    """An open lot of a dollar, made in the order of the ids."""
    usd = {"amount_usd": "1.00", "left_usd": "1.00", "expired_usd": "0.00"}
    times = {"expires_at": expires_at, "created_at": f"2026-01-0{id}T00:00:00.000Z"}
    terms = {"priority": priority, "promotional": promotional}
    return LotShape(id=id, kind="grant", state="open", transaction_id=None, **usd, **terms, **times)


def test_lots_are_shown_in_the_order_in_which_they_are_used():
    soon, late = "2026-06-01T00:00:00.000Z", "2026-09-01T00:00:00.000Z"
    lots = [
        lot("9", 10, late, promotional=False),
        lot("1", 50, soon, promotional=False),
        lot("8", 50, late, promotional=True),
        lot("2", 50, late, promotional=False),
        lot("4", 50, None, promotional=True),
        lot("3", 50, None, promotional=False),
        lot("5", 50, None, promotional=False),
    ]
    assert [each.id for each in in_order(lots[::-1])] == [each.id for each in lots]


async def test_credit_is_bought_and_appears_by_itself(console, payments):
    page = await console.get("/credit", "admin")
    once = re.search(r'name="once" value="([^"]+)"', page.text)
    assert "You're out of credit." in page.words
    form = {"once": once[1], "amount_usd": "4.99", "save_method": "on"}
    wrong = await console.post("/credit/buy", "admin", form)
    assert (wrong.status, 'id="w-amount_usd"' in wrong.text, 'value="4.99"' in wrong.text) == (422, True, True)
    assert "data-still" in wrong.text  # it is at another address than the part of it that would look again
    assert "data-still" not in (await console.get("/credit", "owner")).text
    sent = [await console.post("/credit/buy", "admin", form | {"amount_usd": "25"}) for _ in range(2)]
    assert sent[0].location == sent[1].location
    path = sent[0].location.removeprefix("..")
    shown = await console.get(path, "admin")
    link = re.search(r'class="button main" href="([^"]+)"', shown.text)
    assert "data-live" in shown.text
    assert link[1] not in (await console.get(path, "viewer")).text
    view = await payments.acts.view(link[1].rpartition("/")[2])
    assert "/console/credit/orders" in repr(view)
    await press(payments, link[1], "decline")
    assert "insufficient funds" in (await console.get(path, "admin")).words
    await press(payments, link[1], "approve")
    done = await console.get(path, "viewer")
    assert "paid and credited" in done.words
    assert "data-live" not in done.text
    after = await console.get("/credit", "viewer")
    assert after.values[:2] == ["25.00", "25.00"]
    assert "Your role (viewer) may not buy credit" in after.words
    assert "/credit/buy" not in after.text


async def test_auto_recharge_is_a_sentence(console, payments):
    form = {"enabled": "on", "threshold_usd": "5", "amount_usd": "25", "monthly_cap_usd": "100"}
    refused = await console.post("/credit/auto-recharge", "owner", form)
    assert (refused.status, 'id="w-enabled"' in refused.text) == (422, True)
    link = re.search(r'class="button main" href="([^"]+)"', (await console.post("/credit/method", "owner")).text)
    await press(payments, link[1], f"save:{GOOD.method}")
    assert (await console.post("/credit/auto-recharge", "owner", form)).location == "../credit?notice=recharge-on"
    words = (await console.get("/credit", "member")).words
    assert re.search(r"At \$5\.00 it buys \$25\.00 , at most \$100\.00 a month, with \w+ \d+\.", words), words
    at = datetime(2026, 5, 1, 12, 5, tzinfo=UTC)
    await console.billing.database.execute(
        "UPDATE auto_recharges SET state = 'waiting', reason = 'insufficient_funds', next_attempt_at = $1", at
    )
    words = (await console.get("/credit/auto-recharge", "member")).words
    assert "was declined (insufficient funds); the next try is at 2026-05-01 12:05:00" in words
    off = await console.post("/credit/auto-recharge", "owner", form | {"enabled": "off"})
    assert off.location == "../credit?notice=recharge-off"
    assert "Auto-recharge is off" in (await console.get("/credit", "viewer")).words


async def test_each_transaction_has_the_balance_after_it(console):
    billing, account_id = console.billing, console.organization.account_id
    await sync_prices(billing.database, PRICES)
    coupon = NewCoupon("Spring", 5 * NANO, "SPRING27", 10, 30, None, 1)
    await console.services.coupons.create(coupon, actor=ADMIN)
    done = await console.post("/credit/coupon", "owner", {"code": "spring 27"})
    assert done.location == "../credit?notice=coupon-redeemed"
    for number in range(4):
        await billing.grants.adjust(account_id, (number + 1) * NANO, f"a{number}", "mended")
        await billing.debit(account_id, "key", Usage(input_tokens=1000 * number, output_tokens=10))
    everything = (await console.api("/account/transactions", "viewer"))["data"]
    running, expected = 0, []
    for each in reversed(everything):
        running += parse_usd(each["amount_usd"])
        expected[:0] = [each["amount_usd"], format_usd(running)]
    assert (await console.get("/credit/transactions", "viewer")).values == expected
    first = await console.get("/credit/transactions?limit=4", "viewer")
    cursor = re.search(r'rel="next" href="[^"]*cursor=([^"&]+)', first.text)
    second = await console.get(f"/credit/transactions?limit=5&cursor={cursor[1]}", "viewer")
    assert first.values + second.values == expected
