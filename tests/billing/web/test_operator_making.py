"""What operators make by hand, and pages that they see as a customer does."""

import re

from billing.keys.secrets import secret_digest


async def test_an_account_a_key_and_a_coupon_are_made_by_hand(console):
    form = {"name": "By hand", "plan": "starter", "credit_limit_usd": "5", "tz": "Europe/Berlin"}
    made = await console.post("/operator/accounts/new", "operator", form)
    account_id = re.search(r"acc_\w+", made.location)[0]
    account = await console.billing.accounts.get(account_id)
    assert (account.name, account.plan, account.credit_limit_nano, account.tz) == (
        "By hand",
        "starter",
        5 * 10**9,
        "Europe/Berlin",
    )
    wrong = await console.post("/operator/accounts/new", "operator", form | {"credit_limit_usd": "much"})
    assert (wrong.status, 'value="much"' in wrong.text) == (422, True)

    given = {"account_id": "By hand", "name": "robot", "models": "gpt-*, fast", "scopes": "llm:proxy"}
    shown = await console.post("/operator/keys/new", "operator", given)  # accounts are named
    secret = re.search(r"mg_\w+", shown.text)[0]
    principal = await console.billing.principals.by_digest(secret_digest(secret))
    assert principal.account_id == account_id
    keys = await console.billing.keys.page(account_id, 10)
    assert [(each.name, tuple(each.models), tuple(each.scopes)) for each in keys.items] == [
        ("robot", ("gpt-*", "fast"), ("llm:proxy",))
    ]
    assert secret not in (await console.get("/operator/keys", "operator")).text

    coupon = {"name": "Spring", "amount_usd": "5", "code": "SPRING27", "max_redemptions": "many"}
    assert (await console.post("/operator/coupons", "link", coupon)).status == 422
    shown = await console.post("/operator/coupons", "link", coupon | {"max_redemptions": "1"})
    assert "SPRING27" in shown.words
    done = await console.post("/credit/coupon", "owner", {"code": "SPRING27"})
    assert done.location.endswith("coupon-redeemed")
    listed = await console.get("/operator/coupons", "operator")
    end = re.search(r"/operator/coupons/(\w+)/end", listed.text)[0]
    assert (await console.post(end, "operator")).status == 303
    assert end not in (await console.get("/operator/coupons", "operator")).text

    hook = await console.post("/operator/webhooks", "operator", {"url": "https://example.com/hook"})
    assert "whsec_" in hook.text
    assert "https://example.com/hook" in (await console.get("/operator/webhooks", "operator")).words


async def test_an_operator_sees_what_a_customer_sees_and_changes_nothing(console):
    account_id = console.organization.account_id
    for who in ("operator", "link"):
        begun = await console.post(f"/operator/accounts/{account_id}/see", who)
        assert "Set-Cookie" not in begun.headers
        own = f"{console.services.browsers.rules.cookie}={await console.cookie(who)}"
        page = await ask(console, "GET", "/", own)
        assert "You see this as a viewer of Acme does, read-only." in page
        assert "Available" in page
        assert "Your role (viewer) may not buy credit" in await ask(console, "GET", "/credit", own)
        assert "nothing can be changed" in await ask(console, "POST", "/credit/buy", own)
        assert "nothing can be changed" in await ask(console, "POST", "/keys/new", own)
        assert "Accounts" in await ask(console, "GET", "/operator/accounts", own)  # and is still an operator
        await ask(console, "POST", "/operator/seen/end", own)
    rows = await console.billing.database.rows(
        "SELECT actor, action FROM audit_log WHERE account_id = $1 AND action LIKE 'account.see%' ORDER BY id",
        account_id,
    )
    assert [row["action"] for row in rows] == ["account.see", "account.see_end"] * 2
    # What a browser sends chooses no account: neither a cookie, nor what somebody else has chosen.
    assert "You see this as" not in await ask(console, "GET", "/", own, f"mg_seen={account_id}")
    await console.post(f"/operator/accounts/{account_id}/see", "operator")
    other = f"{console.services.browsers.rules.cookie}={await console.cookie('stranger')}"
    assert "Acme" not in await ask(console, "GET", "/", other)


async def ask(console, method, path, *cookies):
    headers = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin", "Cookie": "; ".join(cookies)}
    console.client.session.cookie_jar.clear()
    async with console.client.request(method, f"/console{path}", headers=headers, allow_redirects=False) as answer:
        text = await answer.text()
        return " ".join(re.sub(r"<[^>]+>", " ", text).split())


async def test_a_plan_has_its_price_list_beside_what_providers_charge(console):
    page = await console.get("/operator/plans/starter", "operator")
    assert "Price list" in page.words
    assert "input $0.15" in page.words.replace(" ,", ",")
    assert 'operator/plans/starter"' in (await console.get("/operator/plans", "operator")).text


async def test_an_accounts_page_has_members_and_orders(console, payments):
    page = await console.get(f"/operator/accounts/{console.organization.account_id}", "operator")
    assert "owner@example.com" in page.words
    assert "No orders yet." in page.words


async def test_a_persons_page_has_where_they_are_signed_in(console):
    await console.cookie("owner")
    page = await console.get(f"/operator/people/{console.persons['owner']}", "operator")
    assert "Where they are signed in" in page.words
    assert page.text.count('data-label="Device"') == 1
    assert "Nowhere." in (await console.get(f"/operator/people/{console.persons['viewer']}", "operator")).words
