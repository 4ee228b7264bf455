"""The console's application: sign-in, the origin of forms, and security headers."""

import hashlib
import re
from dataclasses import replace
from importlib.resources import files

from billing.audit import ADMIN, SYSTEM
from billing.identity.browsers import Browsers
from billing.web.render import assets
from tests.billing.api.test_oidc import Elsewhere, oidc_of
from tests.billing.identity.support import join, new_organization
from tests.billing.people_support import GOOD
from tests.billing.web.support import serving

# htmx.org 2.0.11, dist/htmx.min.js.
HTMX = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"


def test_the_library_that_pages_load_is_the_one_that_was_published():
    static = files("billing.web") / "static"
    assert hashlib.sha256((static / "htmx.min.js").read_bytes()).hexdigest() == HTMX
    assert "Zero-Clause BSD" in (static / "htmx.LICENSE").read_text("utf-8")


async def test_pages_load_nothing_from_elsewhere_and_browsers_are_told_so(console):
    page = await console.get("/", "owner")
    policy = dict(each.strip().partition(" ")[::2] for each in page.headers["Content-Security-Policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Referrer-Policy"] == "same-origin"
    assert not re.search(r'(?:src|href|action)="(?:https?:)?//', page.text)
    assert not re.search(r"<[^>]+\s(?:style|on\w+)=", page.text)
    assert "<script>" not in page.text
    for name, asset in assets().items():
        answer = await console.get(f"/static/{asset.name}", headers={"Accept-Encoding": "gzip"})
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.text == (files("billing.web") / "static" / name).read_text("utf-8")
    missing = await console.get("/no-such-page", "owner")
    assert (missing.status, missing.headers["Cache-Control"]) == (404, "no-store")
    assert (await console.ask("PUT", "/sign-in")).headers["Allow"] == "GET, POST"


async def test_links_are_relative_so_that_a_proxy_may_take_a_prefix_off(console):
    assert (await console.get("")).location == "console/"
    assert (await console.get("/")).location == "./sign-in"
    assert 'href="./sign-in' in (await console.get("/register")).text
    assert 'href="../sign-in' in (await console.get("/sign-in/code")).text


FORMS = [
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "same-site", "Origin": "http://{host}"}, False),
    ({"Origin": "http://evil.example"}, False),
    ({"Origin": "null"}, False),
    ({}, False),
    ({"Origin": "http://{host}"}, True),
    ({"Sec-Fetch-Site": "same-origin"}, True),
]


async def test_a_form_is_only_taken_from_a_page_of_ours(console):
    host = f"{console.client.host}:{console.client.port}"
    for headers, taken in FORMS:
        sent = {name: value.format(host=host) for name, value in headers.items()}
        sent["Cookie"] = f"{console.services.browsers.rules.cookie}={await console.cookie('owner')}"
        async with console.client.post("/console/sign-out", headers=sent, allow_redirects=False) as answer:
            assert answer.status == (303 if taken else 403), headers
        assert (await console.get("/", "owner")).status == (303 if taken else 200)
        if taken:
            del console.cookies["owner"]


async def test_whoever_signs_in_gets_back_to_where_they_were(console, registry):
    hashed = await registry.people.passwords.hash(GOOD, "")
    execute = console.billing.database.execute
    await execute("UPDATE users SET password_hash = $1 WHERE id = $2", hashed, console.persons["owner"])
    where = (await console.get("/?tz=UTC")).location
    assert where == "./sign-in?next=%2F%3Ftz%3DUTC"
    shown = await console.get(where.removeprefix("."))
    assert 'name="next" value="/?tz=UTC"' in shown.text
    form = {"email": "owner@example.com", "password": "wrong", "next": "/?tz=UTC"}
    wrong = await console.post("/sign-in", form=form)
    assert wrong.status == 401
    assert 'value="owner@example.com"' in wrong.text
    assert "Wrong e-mail, password or code" in wrong.words
    right = await console.post("/sign-in", form=form | {"password": GOOD})
    assert (right.status, right.location) == (303, "./?tz=UTC")
    assert "HttpOnly" in right.headers["Set-Cookie"]
    assert "SameSite=Lax" in right.headers["Set-Cookie"]
    console.cookies["owner"] = right.cookie or ""
    assert (await console.get("/", "owner")).status == 200
    for evil in ("//evil.example", "/\\evil.example", "https://evil.example", "/\tx"):
        led = await console.post("/sign-in", form=form | {"password": GOOD, "next": evil})
        assert led.location == "./"
    live = await console.get("/", headers={"HX-Request": "true"})
    assert (live.status, live.headers["HX-Redirect"]) == (200, "./sign-in")


async def test_registering_leads_in_by_the_mailed_code(console, registry):
    asked = await console.post("/register", form={"email": "new@example.com", "name": "New", "password": GOOD})
    assert "Enter the code" in asked.words
    challenge = re.search(r'name="challenge" value="([^"]+)"', asked.text)
    form = {"email": "new@example.com", "purpose": "verify", "challenge": challenge[1]}
    wrong = await console.post("/sign-in/enter", form=form | {"code": "000000"})
    assert (wrong.status, f'value="{challenge[1]}"' in wrong.text) == (401, True)
    entered = await console.post("/sign-in/enter", form=form | {"code": await registry.mailed_code("new@example.com")})
    console.cookies["new"] = entered.cookie or ""
    page = await console.get("/", "new")
    assert "No requests yet" in page.words
    assert "/v1/chat/completions" in page.words


async def test_what_ends_a_session_ends_the_browser_s_with_the_next_request(console):
    sessions, owner = console.services.sessions, console.persons["owner"]

    async def status(who="owner"):
        console.cookies.setdefault(who, await console.cookie(who) or "")
        return (await console.get("/", who)).status

    async def again():
        assert await status() == 303
        del console.cookies["owner"]
        assert await status() == 200

    assert await status() == 200
    [session] = (await sessions.page(owner, 10)).items
    async with sessions.transaction() as connection:
        await sessions.end(connection, session.id, "ended", of_user=owner)
    await again()
    async with sessions.transaction() as connection:
        await sessions.end_all(connection, owner, "revoke-all")
    await again()
    await console.billing.database.execute("UPDATE sessions SET expires_at = now() WHERE user_id = $1", owner)
    await again()
    await console.services.users.disable(owner, SYSTEM)
    assert await status() == 303


async def test_an_operator_s_link_is_good_once_and_ends_with_the_admin_key(console, billing):
    browsers = console.services.browsers
    link = await browsers.make_link(ADMIN)
    assert link.secret not in repr(link)
    path = link.url.partition("/console")[2]
    assert (await console.get(path)).status == 200  # to look at it uses nothing up
    entered = await console.post(path)
    assert (entered.status, entered.location) == (303, "../")
    assert (await console.post(path)).status == 404
    console.cookies["link"] = entered.cookie or ""
    audited = await billing.database.value("SELECT request_id FROM audit_log WHERE action = 'operator.sign_in'")
    assert entered.headers["X-Request-ID"] == audited
    assert (await console.get("/", "link")).location == "./operator"
    rows = await billing.database.rows("SELECT actor, action FROM audit_log WHERE action LIKE 'operator%' ORDER BY id")
    assert [tuple(row) for row in rows] == [("admin", "operator_link.create"), ("admin", "operator.sign_in")]
    stored = await billing.database.value("SELECT string_agg(operator_links::text, '') FROM operator_links")
    assert link.secret not in stored
    assert await Browsers(billing.database, billing.new_id, "another").caller(entered.cookie or "") is None
    old = await browsers.make_link(ADMIN)
    await billing.database.execute("UPDATE operator_links SET expires_at = now()")
    assert (await console.post(old.url.partition("/console")[2])).status == 404


async def test_a_form_acts_on_the_organization_that_its_page_was_about(console, billing):
    other = await new_organization(billing, "Second", console.persons["member"])
    shown = await console.get("/", "owner")
    assert f'value="{console.organization.id}"' in shown.text
    await join(billing, other, console.persons["owner"], "viewer")
    switched = await console.post("/organization", "owner", {"choose": other.id})
    assert (switched.status, switched.location) == (303, "./?notice=switched")
    assert f'value="{other.id}" selected' in (await console.get("/", "owner")).text
    late = await console.post("/organization", "owner", {"choose": other.id, "organization": console.organization.id})
    assert (late.status, "another tab" in late.words) == (409, True)


async def test_a_provider_s_sign_in_leads_back_into_the_console(console, registry, billing):
    elsewhere = Elsewhere({"sub": "ann", "email": "ann@example.com", "email_verified": True})
    services = replace(console.services, oidc=oidc_of(registry, elsewhere, trusted_email=True))
    async with serving(services, console) as pages:

        async def begun():
            sent = await pages.get("/sign-in/with/example", params={"next": "/usage?by=key"})
            cookie = re.search(r"__Host-mg_oidc=([^;]+)", sent.headers["Set-Cookie"])
            return elsewhere.authorize(sent.location), {"Cookie": f"__Host-mg_oidc={cookie[1]}"}

        query, headers = await begun()
        back = await pages.get("../api/auth/oidc/example/callback", params=query, headers=headers)
        assert (back.status, back.location) == (303, "../../../../console/usage?by=key")
        pages.cookies["ann"] = back.cookie or ""
        assert (await pages.get("/usage", "ann")).status == 200
        query, headers = await begun()
        wrong = await pages.get("../api/auth/oidc/example/callback", params=query | {"state": "x"}, headers=headers)
        assert wrong.location == "../../../../console/sign-in?notice=sign-in-failed"
        assert "did not sign you in" in (await pages.get("/sign-in?notice=sign-in-failed")).words
    shut = Browsers(billing.database, billing.new_id, None, admits=lambda provider, domain: False)
    assert await shut.caller(back.cookie or "") is None
    assert await console.services.browsers.caller(back.cookie or "") is None  # it has ended
