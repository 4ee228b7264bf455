"""Plans in the console: the cost of a change is shown before it is made."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from billing.money import parse_usd
from billing.payments.subscriptions import Seen
from billing.plans import Plan
from billing.web.credit import outlook
from tests.billing.web.support import press

PLANS = {name: Plan(name, name.title(), parse_usd(usd)) for name, usd in (("free", "0"), ("pro", "20"), ("top", "80"))}
START = datetime(2026, 6, 1, tzinfo=UTC)
PRO = Seen("sub_1", "active", "pro", START, START + timedelta(days=30), START)


def test_what_a_plan_costs_today_and_at_renewal():
    now = START + timedelta(days=10)

    def change(name, current=PRO, mine="pro"):
        found = outlook(PLANS[name], current, mine, PLANS, now)
        return found.how, f"{found.today_nano / 10**9:.2f}", found.renews_at == PRO.period_end

    assert change("top") == ("now", "40.00", True)  # two thirds of the 60 dollars more
    assert change("pro") == ("nothing", "0.00", True)
    assert change("free") == ("cancel", "0.00", True)
    assert change("pro", replace(PRO, ends_at=PRO.period_end)) == ("resume", "0.00", True)
    assert change("pro", replace(PRO, plan="top")) == ("period_end", "0.00", True)
    assert change("top", None, "free") == ("buy", "80.00", False)
    assert change("free", None, "free") == change("top", None, "top") == ("nothing", "0.00", False)
    late = outlook(PLANS["top"], PRO, "pro", PLANS, PRO.period_end + timedelta(days=1))
    assert late.today_nano == 0


async def test_a_plan_is_bought_ended_and_taken_back(console, payments):
    await console.billing.database.execute("UPDATE accounts SET plan = 'free'")
    page = await console.get("/plan", "owner")
    assert "Today: $99.00 . At each renewal, a month later: $99.00 ." in page.words
    assert "at most 60 requests a minute" in page.words
    assert '/plan/starter"' not in (await console.get("/plan", "member")).text
    offer = await console.get("/plan/starter", "owner")
    once = re.search(r'name="once" value="([^"]+)"', offer.text)
    order = await console.post("/plan/starter", "owner", {"once": once[1]})
    path = order.location.removeprefix("..")
    link = re.search(r'class="button main" href="([^"]+)"', (await console.get(path, "owner")).text)
    await press(payments, link[1], "approve")
    words = (await console.get("/plan", "viewer")).words
    assert "Plan: Starter" in words
    assert "It is renewed" in words
    ending = await console.get("/plan/free", "owner")
    assert "End the plan Starter" in ending.words
    assert "your plan stays until" in ending.words
    assert (await console.post("/plan/free", "owner")).location == "../plan?notice=plan-changed"
    assert "is not renewed" in (await console.get("/plan", "viewer")).words
    assert (await console.post("/plan/starter", "admin")).status == 303
    assert "It is renewed" in (await console.get("/plan", "viewer")).words
    assert (await console.get("/plan/golden", "owner")).status == 404
    await console.billing.database.execute(
        "UPDATE subscriptions SET status = 'past_due', past_due_since = now() - interval '1 day'"
    )
    late = (await console.get("/plan", "owner")).words
    assert re.search(r"has failed\. It stays as it is until \d{4}-\d\d-\d\d", late), late
