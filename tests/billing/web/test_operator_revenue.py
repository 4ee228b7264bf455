"""The operators' page of revenue: each number is the API's, and leads to rows that come to it."""

import re

from billing.money import parse_usd
from tests.billing.api.support import ADMIN_KEY
from tests.billing.web.support import press
from tests.billing.web.test_credit import bought


async def money_of(console, payments):
    """Credit that is refunded by half, credit that is disputed, a card that does not pay, and a plan."""
    first = await bought(console, "40")
    await press(payments, first, "approve")
    await press(payments, first, "refund_half")
    second = await bought(console, "30")
    await press(payments, second, "approve")
    declined = await bought(console, "20")
    await press(payments, declined, "decline")
    await console.billing.database.execute("UPDATE accounts SET plan = 'free'")
    page = await console.get("/plan/starter", "owner")
    once = re.search(r'name="once" value="([^"]+)"', page.text)[1]
    order = await console.post("/plan/starter", "owner", {"once": once})
    shown = await console.get(order.location.removeprefix(".."), "owner")
    await press(payments, re.search(r'class="button main" href="([^"]+)"', shown.text)[1], "approve")
    await press(payments, second, "dispute")


async def admin(console, path, **params):
    async with console.client.get(f"/api/admin{path}", headers={"X-Admin-Key": ADMIN_KEY}, params=params) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_each_number_leads_to_rows_that_come_to_it(console, payments):
    await money_of(console, payments)
    found = await admin(console, "/payments/revenue")
    total = found["total"]
    assert (total["paid_usd"], total["refunded_usd"], total["disputed_usd"]) == ("169.00", "20.00", "30.00")
    assert (total["payments"], total["failed"], total["net_usd"]) == (3, 1, "119.00")
    assert (found["mrr_usd"], found["subscribers"]) == ("99.00", 1)
    assert found["plans"] == [{"plan": "starter", "subscribers": 1, "mrr_usd": "99.00"}]
    page = await console.get("/operator/payments/revenue", "operator")
    for said in ("Gross volume $169.00", "MRR $99.00", "Failed payments 1", "Refunds $20.00", "Disputes $30.00"):
        assert said in page.words, page.words
    links = {
        label: re.search(rf'href="([^"]+)"><span class="tile-label">{label} ?<', page.text)[1].replace("&amp;", "&")
        for label in ("Gross volume", "MRR", "Failed payments", "Refunds", "Disputes")
    }
    for label, expected in (
        ("Gross volume", total["paid_usd"]),
        ("MRR", "99.00"),
        ("Failed payments", "20.00"),
        ("Refunds", total["refunded_usd"]),
        ("Disputes", total["disputed_usd"]),
    ):
        rows = await console.get(re.sub(r"^(\.\./)+", "/", links[label]), "operator")
        amounts = re.findall(r'data-label="(?:Paid|Amount|A month)"[^>]*><[^>]*?value="([^"]+)"', rows.text)
        assert sum(map(parse_usd, amounts)) == parse_usd(expected), (label, rows.words)
    for span in ("90d", "12m"):
        assert "Gross volume $169.00" in (await console.get(f"/operator/payments/revenue?span={span}", "link")).words
    assert (await console.get("/operator/payments/revenue?span=1y", "link")).status == 400


async def test_steps_are_whole_days_and_months_and_bounded(console, payments):
    found = await admin(console, "/payments/revenue", since="2027-01-15", until="2027-03-02", step="month")
    assert [each["start"][:10] for each in found["data"]] == ["2027-01-01", "2027-02-01", "2027-03-01"]
    days = await admin(console, "/payments/revenue", since="2027-02-27", until="2027-03-02")
    assert [each["start"][:10] for each in days["data"]] == ["2027-02-27", "2027-02-28", "2027-03-01"]
    for params in ({"since": "2027-02-01", "until": "2027-02-01"}, {"since": "1990-01-01", "step": "day"}):
        async with console.client.get(
            "/api/admin/payments/revenue", headers={"X-Admin-Key": ADMIN_KEY}, params=params
        ) as answer:
            assert answer.status == 400
