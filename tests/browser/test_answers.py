"""Pages that answer a form, in a real browser: every form that the console declares is sent, with what is refused, and
with what is done. And the pages of an organization that has nothing yet."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from billing.identity.codes import TOTP_STEP_S, totp_code
from billing.web.application import ROUTES
from tests.billing.web.support import Console, serving
from tests.browser.furnished import furnish, providers, try_provider
from tests.browser.looking import axe, said
from tests.browser.visiting import Walk, address, as_on_desktops, by_need, visiting

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

# The page that answered the form before.
HERE = "."
NOT_SENT = {
    "/invitations/{token}": "its page needs the token of a mail: test_invited sends it",
    "/enter/{secret}": "test_journeys sends it",
    "/operator/jobs/collect": "no exporter is collected from here, so that there is no form",
    "/operator/exporters/assign": "no exporter is collected from here, so that there is no form",
    "/operator/exports/{export}/retry": "usage is exported nowhere here, so that there is no form",
}
# Pages of an organization that has nothing yet.
EMPTY = (
    "/",
    "/usage",
    "/requests",
    "/keys",
    "/credit",
    "/credit/transactions",
    "/plan",
    "/alerts",
    "/quickstart",
)
_FILL = """([pattern, fields]) => {
    const path = new RegExp(`^/console${pattern}$`);
    const form = [...document.forms].find(each => each.method === "post" && path.test(new URL(each.action).pathname));
    if (!form) return false;
    for (const [name, value] of Object.entries(fields)) {
        const input = form.querySelector(`[name="${name}"]`);
        input.value = value === "another" ? [...input.options].find(each => !each.selected).value : value;
    }
    return true;
}"""
# As without scripts: nothing is asked, and the browser does not look at what was typed.
_SEND = """pattern => [...document.forms].find(each =>
    each.method === "post" && new RegExp(`^/console${pattern}$`).test(new URL(each.action).pathname)).submit()"""


@dataclass(frozen=True)
class Sent:
    """A form as it is sent: that of the route `path` on the page `at` (the one of the same path, where that is not
    said), with what is typed into its fields. It is refused, or `done`; `shot` names its screenshot."""

    path: str
    at: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    done: bool = False
    shot: str = ""


KEY, MEMBER, BUDGET = "/keys/{key_id}", "/members/{user_id}", "/alerts/budgets/{budget_id}"
HOOK, ACCOUNT = "/alerts/webhooks/{endpoint_id}", "/operator/accounts/{account_id}"
ORDER, PARKED = "/operator/payments/orders/{order_id}", "/operator/payments/parked"
PROVIDER, TESTED = "/operator/providers/{provider}", "/operator/providers/openai"
OPERATORS_HOOK, INVITATION = "/operator/webhooks/{endpoint_id}", "/members/invitations/{invitation_id}"
NOBODY = (
    Sent("/sign-in", fields={"email": "ann@example.com", "password": "wrong"}, shot="sign-in-refused"),
    Sent("/sign-in/code", fields={"email": "no address"}),
    Sent("/sign-in/code", fields={"email": "ann@example.com"}, done=True, shot="sign-in-enter-code"),
    Sent("/sign-in/enter", HERE, {"code": "000000"}),
    Sent("/register", fields={"email": "ann@example.com", "password": "short"}),
    Sent("/forgot", fields={"email": "ann@example.com"}, done=True),
    Sent("/reset", fields={"token": "otc_none", "password": "four words nobody knows"}),
    Sent("/keys/leaked", fields={"key": ""}),
    Sent("/keys/leaked", fields={"key": f"mg_{'x' * 38}"}, done=True),
)
OWNER = (
    Sent("/keys/new", fields={"name": "phone"}, done=True, shot="keys-made"),
    Sent("/keys/new", fields={"name": "phone", "quota_limit": "many", "expires_at": ""}, shot="keys-refused"),
    Sent(KEY, fields={"name": ""}),
    Sent(f"{KEY}/rotate", KEY, done=True),
    Sent(f"{KEY}/revoke", KEY, done=True),
    Sent("/credit/buy", "/credit", {"amount_usd": "1.234"}),
    Sent("/credit/buy", "/credit", {"amount_usd": "20"}, done=True, shot="credit-order-open"),
    Sent("/credit/coupon", "/credit", {"code": "NONE"}),
    Sent("/credit/portal", "/credit", done=True),
    Sent("/credit/method", "/credit/auto-recharge", done=True),
    Sent("/credit/auto-recharge", fields={"amount_usd": "0"}),
    Sent("/credit/auto-recharge", done=True),
    Sent("/members/invite", "/members", {"email": "no address"}),
    Sent(f"{INVITATION}/resend", "/members", done=True),
    Sent(f"{INVITATION}/revoke", "/members", done=True),
    Sent("/members/name", "/members", {"name": ""}),
    Sent("/directory/rules", "/directory", {"group": "", "max_keys": "some"}),
    Sent("/directory/rules", "/directory", {"group": "engineering", "max_keys": "5"}, done=True),
    Sent("/directory/rules/remove", "/directory", done=True),
    Sent("/directory/tokens", "/directory", {"name": ""}),
    Sent("/directory/tokens", "/directory", {"name": "Okta"}, done=True),
    Sent("/directory/tokens/{token_id}/revoke", "/directory", done=True),
    Sent(f"{MEMBER}/role", MEMBER, {"role": ""}),
    Sent(f"{MEMBER}/limits", MEMBER, {"quota_limit": "many"}),
    Sent(f"{MEMBER}/remove", "/members"),
    Sent("/alerts/low-balance", "/alerts", {"low_balance_usd": "much"}),
    Sent("/alerts/budgets", "/alerts", {"amount_usd": "none", "thresholds": "some"}),
    Sent(BUDGET, fields={"amount_usd": "none"}),
    Sent(f"{BUDGET}/delete", BUDGET, done=True),
    Sent("/alerts/webhooks", "/alerts", {"url": "ftp://example.com"}),
    Sent("/alerts/webhooks", "/alerts", {"url": "https://example.com/hook"}, done=True, shot="alerts-webhook-secret"),
    Sent(f"{HOOK}/test", HOOK, done=True),
    Sent(f"{HOOK}/deliveries/{{delivery_id}}/redeliver", HOOK, done=True),
    Sent(f"{HOOK}/rotate", HOOK, done=True),
    Sent(f"{HOOK}/turn", HOOK, done=True),
    Sent(f"{HOOK}/delete", HOOK, done=True),
    Sent("/security/name", "/security", {"name": "x" * 500}),
    Sent("/security/zone", "/security", {"tz": "Nowhere/None"}),
    Sent("/security/password", "/security", {"password": "short"}),
    Sent("/security/address", "/security", {"email": "elsewhere@example.com"}, done=True),
    Sent("/security/address/confirm", HERE, {"code": "000000"}),
    Sent("/security/totp", "/security", done=True, shot="security-authenticator"),
    Sent("/security/totp/confirm", HERE, {"code": "000000"}),
    Sent("/security/totp/confirm", HERE, {"code": "right"}, done=True, shot="security-recovery-codes"),
    Sent("/security/totp/recovery-codes", "/security", {"factor": "000000"}),
    Sent("/security/totp/remove", "/security", {"remove_factor": "not-a-code"}),
    Sent("/security/sessions/{session_id}/end", "/security", done=True),
    Sent(f"{MEMBER}/transfer", MEMBER, done=True),
    Sent("/organizations/new", fields={"name": ""}),
    Sent("/organizations/new", fields={"name": "Acme in Europe"}, done=True),
    Sent("/organization", "/", {"choose": "another"}, done=True),
    Sent("/organization", "/", {"choose": "another"}, done=True),  # and back to the one that was founded
    Sent("/plan/{plan_id}", "/plan/starter", done=True),
)
OPERATOR = (
    Sent("/operator/accounts/new", fields={"name": "Made by hand", "credit_limit_usd": "a lot"}),
    Sent("/operator/accounts/new", fields={"name": "Made by hand"}, done=True),
    Sent("/operator/keys/new", fields={"account_id": "none", "name": "By hand"}),
    Sent("/operator/coupons", fields={"name": "Spring", "amount_usd": "a lot"}),
    Sent("/operator/coupons", fields={"name": "Spring", "amount_usd": "5"}, done=True, shot="operator-coupons-made"),
    Sent("/operator/coupons/{coupon_id}/end", "/operator/coupons", done=True),
    Sent("/operator/webhooks", fields={"url": "ftp://example.com"}),
    Sent(f"{ACCOUNT}/see", ACCOUNT, done=True),
    Sent("/operator/seen/end", "/", done=True),
    Sent(f"{ACCOUNT}/grant", ACCOUNT, {"amount_usd": "a lot"}, shot="operator-accounts-refused"),
    Sent(f"{ACCOUNT}/grant", ACCOUNT, {"amount_usd": "5", "note": "A gift"}, done=True),
    Sent(f"{ACCOUNT}/refund", ACCOUNT, {"amount_usd": "a lot"}),
    Sent(f"{ACCOUNT}/adjust", ACCOUNT, {"amount_usd": "a lot"}),
    Sent(f"{ACCOUNT}/change", ACCOUNT, {"credit_limit_usd": "-1"}),
    Sent("/operator/keys/{key_id}/revoke", "/operator/keys", done=True),
    Sent(f"{ORDER}/refund", ORDER, {"amount_usd": "a lot"}),
    Sent(f"{PARKED}/credit", PARKED, {"parked_id": "none", "account_id": "none", "note": "checked"}),
    Sent(f"{PARKED}/dismiss", PARKED, {"parked_id": "none"}),
    Sent(f"{PARKED}/{{parked_id}}/credit", PARKED, done=True),
    Sent("/operator/payments/events/{event_id}/replay", "/operator/payments/events", done=True),
    Sent(f"{OPERATORS_HOOK}/test", OPERATORS_HOOK, done=True),
    Sent(f"{OPERATORS_HOOK}/{{delivery_id}}/again", OPERATORS_HOOK, done=True),
    Sent("/operator/people/{user_id}", done=True),
    Sent(f"{PROVIDER}/test", TESTED, {"target": "2"}),
    Sent(f"{PROVIDER}/test", TESTED, {"target": "1"}, done=True, shot="operator-providers-tested"),
)
ENDED = (Sent("/security/end-all", "/security", done=True),)
SIGNED_OUT = (Sent("/sign-out", "/", done=True),)


@dataclass
class Forms(Walk):
    """What one visitor finds on pages that answer forms."""

    clock: Callable[[], float] = time.time
    """Of what checks codes, in Unix seconds."""
    secret: str = ""
    """Of an authenticator app, as a page has shown it."""

    async def links(self) -> None:
        """Find where the visitor's pages lead."""
        for declared in by_need(await self.pages()):
            path = address(declared, self.linked)
            if path is not None:
                text = (await self.console.get(path, self.who)).text
                found = (urljoin(f"/console{path}", each) for each in re.findall(r'href="([^"#?]+)', text))
                self.linked |= {each.removeprefix("/console") for each in found}

    def where(self, at: str) -> str:
        """The address of a page of which the route is known: that of somebody else, or one that is linked to."""
        somebody = "stranger" if self.who == "operator" else "member"
        known = at.replace("{user_id}", self.console.persons[somebody])
        known = known.replace("{account_id}", self.console.organization.account_id)
        declared = [each for each in ROUTES if each.method == "GET" and each.path == known]
        path = address(declared[0], self.linked) if declared else known
        assert path is not None, at
        return path

    async def send(self, page: "Page", sent: Sent) -> None:
        """Send a form, and look at the page that answers it."""
        what, pattern = f"{sent.path} {dict(sent.fields)}", re.sub(r"\{\w+\}", "[^/]+", sent.path)
        await as_on_desktops(page)
        if sent.at != HERE:
            await page.goto(f"{self.base}{self.where(sent.at or sent.path)}")
        fields = {name: self.right() if text == "right" else text for name, text in sent.fields.items()}
        if not await page.evaluate(_FILL, [pattern, fields]):
            self.wrong[what] = ["no such form is on its page"]
            return
        async with page.expect_navigation() as navigation:
            await page.evaluate(_SEND, pattern)
        answer = await navigation.value
        if answer.ok != sent.done or answer.status >= 500:
            self.wrong[what] = [f"HTTP {answer.status}: {(await page.inner_text('main'))[:200]}"]
        if not answer.ok:  # Chromium says so of every page that refuses
            self.heard[:] = [each for each in self.heard if f"responded with a status of {answer.status}" not in each]
        shown = re.search(r"<code>([A-Z2-7]{32})</code>", await page.content())
        self.secret = self.secret if shown is None else shown[1]
        if sent.shot:
            await self.judge(page, what, thorough=True, shot=sent.shot)
        elif answer.request.redirected_from is None:
            await self.glance(page, what)
        else:  # a page that is looked at elsewhere
            self.note(what, [])

    def right(self) -> str:
        """The code that an authenticator app shows now."""
        return totp_code(self.secret, int(self.clock()) // TOTP_STEP_S)


async def send_all(
    console: Console, browser: "Browser", clock: Callable[[], float], who: str, forms: Iterable[Sent]
) -> dict[str, Any]:
    """Send forms one after the other; what is wrong with the pages that answer."""
    walk = Forms(console, who, clock=clock)
    await walk.links()
    async with visiting(browser, console, who, complaints=walk.heard) as page:
        await page.add_init_script(axe())
        for sent in forms:
            await walk.send(page, sent)
        if who == "owner":  # who has founded an organization, and chosen it
            for path in EMPTY:
                await as_on_desktops(page)
                await page.goto(f"{walk.base}{path}")
                what = f"{path} of a new organization"
                if path == "/":
                    await walk.judge(page, what, thorough=True, shot="overview-first")
                else:
                    await walk.glance(page, what)
    return walk.wrong


async def test_every_form_is_answered_by_a_sound_page(console, payments, registry, browser):
    rows = {"nobody": NOBODY, "operator": OPERATOR, "owner": OWNER, "viewer": ENDED, "admin": SIGNED_OUT}
    paths = {each.path for forms in rows.values() for each in forms}
    assert {each.path for each in ROUTES if each.method == "POST"} == paths | NOT_SENT.keys()
    await furnish(console, payments)
    await console.people.sign_in(console.persons["owner"])  # elsewhere, which is ended
    async with serving(replace(console.services, providers=providers, test_provider=try_provider), console) as served:
        wrong = {
            who: found
            for who, forms in rows.items()
            if (found := await send_all(served, browser, registry.clock, who, forms))
        }
    assert wrong == {}, said(wrong)
