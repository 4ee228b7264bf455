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
from tests.billing.web.support import fields, press

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
    assert "/console/credit/orders/newest" in repr(view)  # which leads back to this order
    assert (await console.get("/credit/orders/newest", "admin")).location.removeprefix("../..") == path
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
    assert "was declined (insufficient funds); the next attempt is at 2026-05-01 12:05:00" in words
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
    assert (await console.get("/credit/transactions?kind=all", "viewer")).values == expected
    first = await console.get("/credit/transactions?kind=all&limit=4", "viewer")
    cursor = re.search(r'rel="next" href="[^"]*cursor=([^"&]+)', first.text)
    second = await console.get(f"/credit/transactions?kind=all&limit=5&cursor={cursor[1]}", "viewer")
    assert first.values + second.values == expected


async def test_transactions_are_by_kind_and_what_was_bought_comes_first(console, payments):
    billing, account_id = console.billing, console.organization.account_id
    await sync_prices(billing.database, PRICES)
    await billing.grants.grant(account_id, 5 * NANO, "gift", "a gift")
    await billing.grants.adjust(account_id, -NANO, "less", "mended")
    await billing.debit(account_id, "key", Usage(input_tokens=1000, output_tokens=10))
    link = await bought(console, "25")
    await press(payments, link, "approve")
    first = await console.get("/credit/transactions", "viewer")
    assert first.values == ["25.00", "-1.00", "5.00"]  # usage is a click away
    assert (await console.get("/credit/transactions?kind=purchase", "viewer")).values == ["25.00"]
    assert (await console.get("/credit/transactions?kind=grant", "viewer")).values == ["5.00"]
    listed = await console.api("/account/transactions", "viewer", kind="changes", limit="2")
    assert [(each["kind"], each["balance_usd"]) for each in listed["data"]] == [
        ("purchase", None),
        ("adjustment", None),
    ]
    cursor = listed["next_cursor"]
    rest = (await console.api("/account/transactions", "viewer", kind="changes", limit="2", cursor=cursor))["data"]
    assert [each["kind"] for each in rest] == ["grant"]
    table = await console.get("/credit/transactions?kind=purchase&format=csv", "viewer")
    assert table.text.count("\r\n") == 2


async def bought(console, usd: str, **more: str) -> str:
    """Begin an order, and return where it is paid."""
    page = await console.get("/credit", "owner", params=more)
    form = {**dict(fields(page, "/credit/buy")), "amount_usd": usd}
    sent = await console.post("/credit/buy", "owner", form)
    path = sent.location.removeprefix("..")
    shown = await console.get(path, "owner")
    return re.search(r'class="button main" href="([^"]+)"', shown.text)[1]


async def test_a_receipt_has_what_was_paid_its_tax_and_the_providers_documents(console, payments):
    await press(payments, await bought(console, "25"), "approve")
    account_id = console.organization.account_id
    state = """UPDATE payment_objects SET state = state || $1 WHERE kind = 'payment'"""
    more = {"total_cents": 2975, "receipt_url": "https://pay.example.com/receipt/1", "invoice_id": "in_1"}
    await console.billing.database.execute(state, more)
    bill = {"amount_cents": 2500, "total_cents": 2975, "number": "MG-0001", "status": "paid", "id": "in_1"}
    bill |= {"hosted_url": "https://pay.example.com/in_1", "pdf_url": "https://pay.example.com/in_1.pdf"}
    await console.billing.database.execute(
        "INSERT INTO payment_objects (provider, kind, id, state) VALUES ('local', 'invoice', 'in_1', $1)",
        bill,
    )
    (receipt,) = (await console.api("/billing/receipts", "viewer"))["data"]
    assert (receipt["amount_usd"], receipt["tax_usd"], receipt["number"]) == ("29.75", "4.75", "MG-0001")
    page = await console.get("/credit/invoices", "viewer")
    for url in (more["receipt_url"], bill["hosted_url"], bill["pdf_url"]):
        assert f'href="{url}"' in page.text
    assert page.values == ["29.75", "4.75"]
    assert (await console.api("/billing/receipts", "stranger"))["data"] == []
    assert account_id not in (await console.get("/credit/invoices", "stranger")).text


async def test_from_a_refusal_to_payment_and_back(console, payments):
    out = await console.get("/", "owner")
    assert "You're out of credit, so requests are refused. Buy credit" in out.words
    assert "Ask an owner or admin of the organization to buy some." in (await console.get("/", "viewer")).words
    link = await bought(console, "25", back="/requests/refused")
    order = (await console.api("/billing/orders", "owner"))["data"][0]["id"]
    view = await payments.acts.view(link.rpartition("/")[2])
    assert view.success_url.endswith("/console/credit/orders/newest?back=%2Frequests%2Frefused")
    led = await console.get("/credit/orders/newest?back=/requests/refused", "owner")
    assert led.location.endswith(f"/credit/orders/{order}?back=%2Frequests%2Frefused")
    await press(payments, link, "approve")
    done = await console.get(f"/credit/orders/{order}?back=/requests/refused", "owner")
    assert 'href="../../requests/refused">Back to where you were' in done.text
    elsewhere = await console.get(f"/credit/orders/{order}?back=https://example.com/", "owner")
    assert "example.com/" not in elsewhere.text
    assert "out of credit" not in (await console.get("/", "owner")).words


async def test_an_order_whose_page_has_ended_expires(console, payments):
    await bought(console, "25")
    execute = console.billing.database.execute
    await payments.flows.expire()
    assert (await console.api("/billing/orders", "owner"))["data"][0]["status"] == "open"
    await execute("UPDATE orders SET expires_at = now() - interval '25 hours'")  # and no event has told of it
    await payments.flows.expire()
    order = (await console.api("/billing/orders", "owner"))["data"][0]
    assert (order["status"], order["url"]) == ("expired", None)
    shown = await console.get(f"/credit/orders/{order['id']}", "owner")
    assert "It was not paid in time, and nothing was charged." in shown.words
    await execute("UPDATE orders SET status = 'open', checkout_id = NULL, expires_at = NULL")
    await execute("UPDATE orders SET created_at = now() - interval '2 days'")
    await payments.flows.expire()
    assert (await console.api("/billing/orders", "owner"))["data"][0]["status"] == "expired"
