"""Signing in elsewhere, at providers of the test's own: what a sign-in needs to succeed, and whom it lets in."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt
import pytest
from jwt.algorithms import RSAAlgorithm

from billing.api.services import Services
from billing.audit import Actor
from billing.identity.directories import GroupRule
from billing.identity.issuers import DISCOVERED_S, Discovery, IssuerAway, IssuerRefused
from billing.identity.oidc import OidcSignIn
from billing.identity.organizations import Organization, found
from billing.identity.providers import SignInProvider, is_path
from billing.identity.users import Subjects
from billing.permissions import SCOPES
from tests.billing.api.support import Answer, Api, serving
from tests.billing.identity.issued import OTHER_RSA, RSA
from tests.billing.identity.sessions_support import People
from tests.billing.identity.support import acting, join, new_organization, new_user, roles
from tests.billing.people_support import GOOD, Registry, registry_of, scim_of
from tests.billing.support import Billing, attempts_of

ISSUER = "https://login.example.com"
PUBLIC = "https://gateway.example.com"
SECRET = "client secret"
GITHUB = SignInProvider(
    "https://github.com",
    "app",
    SECRET,
    "github",
    ("read:user", "user:email"),
    trusted_email=True,
    api_url="https://api.github.com",
)


@dataclass
class Elsewhere:
    """Providers behind `Ask`: OpenID Connect at ISSUER, and GitHub. `claims` are those of the person who signs in."""

    claims: dict[str, Any] = field(default_factory=lambda: {"sub": "ann", "email": "ann@example.com"})
    userinfo: dict[str, Any] | None = None
    emails: list[dict[str, Any]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    key: Any = RSA
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def authorize(self, url: str) -> dict[str, str]:
        """What the browser is sent back with."""
        asked = dict(parse_qsl(urlsplit(url).query))
        code = f"code {len(self.codes)}"
        self.codes[code] = asked
        return {"code": code, "state": asked["state"]}

    async def __call__(self, url: str, *, form: Any = None, headers: Any = None) -> bytes:
        return json.dumps(self.answer(url, form, headers or {})).encode()

    def answer(self, url: str, form: Any, headers: dict[str, str]) -> Any:
        match url:
            case "https://login.example.com/.well-known/openid-configuration":
                named = {name: f"{ISSUER}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
                return {"issuer": ISSUER, **named, **self.metadata}
            case "https://login.example.com/jwks_uri":
                public = RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)
                return {"keys": [{**public, "kid": "one", "use": "sig", "alg": "RS256"}]}
            case "https://login.example.com/token_endpoint":
                basic = "Basic " + base64.b64encode(b"gateway:client%20secret").decode()
                assert headers.get("Authorization") == basic or form.get("client_secret") == SECRET
                return {"access_token": "at", "id_token": self.id_token(self.redeemed(form))}
            case "https://login.example.com/userinfo":
                assert headers["Authorization"] == "Bearer at"
                return self.userinfo
            case "https://github.com/login/oauth/access_token":
                assert form["client_secret"] == SECRET
                self.redeemed(form)
                return {"access_token": "gho"}
            case "https://api.github.com/user":
                assert headers["Authorization"] == "Bearer gho"
                return {"id": 7, "login": "ann", "name": None}
            case "https://api.github.com/user/emails":
                return self.emails
        raise IssuerAway(url)

    def redeemed(self, form: dict[str, str]) -> dict[str, str]:
        """Return the parameters that a code was requested with, once, checking the verifier (RFC 7636)."""
        asked = self.codes.pop(form["code"], None)
        proof = base64.urlsafe_b64encode(sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        if asked is None or asked["code_challenge"] != proof or asked["redirect_uri"] != form["redirect_uri"]:
            raise IssuerRefused("invalid_grant")
        return asked

    def id_token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": "gateway", "iat": now, "exp": now + 300, "nonce": asked["nonce"], **self.claims}
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, self.key, "RS256", headers={"kid": "one"})


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


async def founded(billing: Billing, connection: Any, user_id: str, name: str, actor: Actor) -> object:
    return await found(connection, billing.new_id, "free", user_id=user_id, name=name, personal=True, actor=actor)


def oidc_of(registry: Registry, elsewhere: Elsewhere, public_url: str = PUBLIC, **provider: Any) -> OidcSignIn:
    billing, users = registry.billing, registry.people.users
    example = SignInProvider(ISSUER, "gateway", SECRET, **provider)
    return OidcSignIn(
        {"example": example, "github": GITHUB},
        public_url,
        None,
        discovery=Discovery(elsewhere, time.monotonic),
        sessions=registry.sessions,
        subjects=Subjects(billing.database, users, partial(founded, billing)),
        directories=registry.directories,
    )


@pytest.fixture
async def web(
    services: Services, billing: Billing, registry: Registry, elsewhere: Elsewhere
) -> AsyncIterator["Browser"]:
    """The API with these providers, of which the addresses are trusted."""
    oidc = oidc_of(registry, elsewhere, trusted_email=True)
    async with serving(replace(services, oidc=oidc), billing) as api:
        yield Browser(api, elsewhere, oidc)


@dataclass
class Browser:
    """A browser with its cookies, which goes where it is sent."""

    api: Api
    elsewhere: Elsewhere
    oidc: OidcSignIn

    async def begin(self, name: str = "example", **query: str) -> tuple[dict[str, str], dict[str, str]]:
        """What it comes back with, and its cookies."""
        url = f"/api/auth/oidc/{name}"
        async with self.api.client.get(url, params=query, allow_redirects=False) as answer:
            assert answer.status == 303, await answer.text()
            (cookie,) = answer.headers.getall("Set-Cookie")
            assert {"Path=/", "Secure", "HttpOnly", "SameSite=Lax", "Max-Age=600"} <= set(cookie.split("; "))
            name, _, value = cookie.partition(";")[0].partition("=")
            assert name == "__Host-mg_oidc"
            return self.elsewhere.authorize(answer.headers["Location"]), {name: value}

    async def end(self, query: dict[str, str], cookies: dict[str, str], name: str = "example") -> Answer:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
        return await self.api.call(
            "GET", f"/api/auth/oidc/{name}/callback", params=query, headers=headers, allow_redirects=False
        )

    async def sign_in(self, name: str = "example", **claims: Any) -> Answer:
        self.elsewhere.claims = {"sub": "ann", "email": "ann@example.com", "email_verified": True, **claims}
        query, cookies = await self.begin(name)
        return await self.end(query, cookies, name)


async def test_a_new_person_signs_in(web, people):
    answer = await web.sign_in(name="example", email="Ann@Example.com")
    assert answer.status == 200, answer.json
    caller = await people.who(answer.json["access_token"])
    assert (caller.email, caller.verified, caller.role) == ("ann@example.com", True, "owner")
    assert caller.account_id is not None
    assert 'mg_oidc="";' in answer.headers["Set-Cookie"] or "Max-Age=0" in answer.headers["Set-Cookie"]
    again = await web.sign_in()
    assert (await people.who(again.json["access_token"])).id == caller.id
    row = await people.database.row("SELECT * FROM user_identities")
    assert (row["issuer"], row["subject"], row["user_id"]) == (ISSUER, "ann", caller.id)
    assert [each["after"]["method"] for each in await people.audited("user.sign_in")] == ["oidc:example"] * 2
    refreshed = await web.api.call("POST", "/api/auth/refresh", json={"refresh_token": again.json["refresh_token"]})
    assert refreshed.status == 200


async def test_such_a_session_never_has_an_operator_s_rights(web, people):
    answer = await web.sign_in()
    await people.database.execute("UPDATE users SET operator = true, totp_confirmed_at = now()")
    caller = await people.who(answer.json["access_token"])
    assert (caller.operator, caller.scopes <= set(SCOPES)) == (False, True)


@pytest.mark.parametrize(
    "wrong",
    [
        "no cookie",
        "another browser",
        "no state",
        "another state",
        "no code",
        "another code",
        "twice",
        "issuer",
        "error",
    ],
)
async def test_what_does_not_belong_together(web, wrong):
    query, cookies = await web.begin()
    _, others = await web.begin()
    match wrong:
        case "no cookie":
            cookies = {}
        case "another browser":
            cookies = others
        case "no state" | "no code":
            del query[wrong.removeprefix("no ")]
        case "another state" | "another code":
            query[wrong.removeprefix("another ")] = "wrong"
        case "twice":
            assert (await web.end(query, cookies)).status == 200
        case "issuer":
            query["iss"] = "https://evil.example"
        case "error":
            query["error"] = "access_denied"
    (await web.end(query, cookies)).refused(401, "invalid_api_key")


async def test_a_cookie_of_another_provider_or_of_before(web, people):
    query, cookies = await web.begin()
    (await web.end(query, cookies, "github")).refused(401, "invalid_api_key")
    web.oidc._now = lambda: time.time() + 601
    (await web.end(query, cookies)).refused(401, "invalid_api_key")
    web.oidc._now = time.time
    (name,) = cookies
    access = (await people.sign_in(await people.user("eve@example.com"))).access_token
    (await web.end(query, {name: access})).refused(401, "invalid_api_key")
    assert await people.caller(cookies[name]) is None, "what begins a sign-in lets nobody in"


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "wrong"},
        {"nonce": None},
        {"aud": "another"},
        {"iss": "https://evil.example"},
        {"exp": 1},
        {"azp": "another"},
        {"aud": ["gateway", "another"]},
        {"sub": None},
        {"sub": ""},
        {"exp": None},
    ],
)
async def test_id_tokens_that_are_not_for_this_sign_in(web, claims):
    (await web.sign_in(**claims)).refused(401, "invalid_api_key")


async def test_an_id_token_of_another_key(web):
    web.elsewhere.key = OTHER_RSA
    (await web.sign_in()).refused(401, "invalid_api_key")


async def test_who_has_proven_the_address_is_linked(web, people):
    user_id = await people.user()
    answer = await web.sign_in()
    assert (await people.who(answer.json["access_token"])).id == user_id
    assert len(await people.audited("user.identity_link")) == 1


@pytest.mark.parametrize("verified", [False, None, "true", 1])
async def test_an_address_that_is_not_verified_links_nobody(web, people, verified):
    user_id = await people.user()
    answer = await web.sign_in(email_verified=verified)
    caller = await people.who(answer.json["access_token"])
    assert caller.id != user_id
    assert (caller.email, caller.verified, caller.scopes) == (None, False, frozenset())
    assert await people.database.value("SELECT email FROM user_identities") == "ann@example.com"


async def test_a_provider_that_is_not_trusted_links_nobody(services, billing, registry, elsewhere, people):
    user_id = await people.user()
    oidc = oidc_of(registry, elsewhere)
    async with serving(replace(services, oidc=oidc), billing) as api:
        answer = await Browser(api, elsewhere, oidc).sign_in()
    assert (await people.who(answer.json["access_token"])).id != user_id


async def test_an_address_that_somebody_registered_and_never_proved(web, people):
    squatter = await people.user()
    await people.database.execute("UPDATE users SET email_verified_at = NULL, password_hash = 'theirs'")
    caller = await people.who((await web.sign_in()).json["access_token"])
    assert caller.id != squatter
    assert caller.email == "ann@example.com"
    assert await people.database.value("SELECT email FROM users WHERE id = $1", squatter) is None
    assert len(await people.audited("user.email")) == 1


async def test_linking_while_signed_in(web, people, registry):
    user_id = await people.user("other@example.com", password_hash=await registry.people.passwords.hash(GOOD))
    pair = await people.sign_in(user_id)
    headers, verified = {"Authorization": f"Bearer {pair.access_token}"}, "UPDATE users SET email_verified_at = $1"
    for body in ({}, {"password": "not theirs"}):  # who has found a token only leaves no way in behind
        asked = await web.api.call("POST", "/api/auth/oidc/example", headers=headers, json=body)
        asked.refused(401, "invalid_api_key", "password")
    await people.database.execute(verified, None)
    asked = await web.api.call("POST", "/api/auth/oidc/example", headers=headers, json={"password": GOOD})
    assert "Prove your address" in asked.refused(409, "idempotency_conflict")
    await people.database.execute(verified, datetime.now(UTC))
    async with web.api.client.post("/api/auth/oidc/example", headers=headers, json={"password": GOOD}) as answer:
        url, cookie = (await answer.json())["url"], answer.headers["Set-Cookie"].partition(";")[0]
    name, _, value = cookie.partition("=")
    web.elsewhere.claims |= {"email_verified": False}
    linked = await web.end(web.elsewhere.authorize(url), {name: value})
    assert (await people.who(linked.json["access_token"])).id == user_id
    assert ISSUER in (await registry.mails("other@example.com"))[-1][1]
    stranger = await people.sign_in(await people.user("eve@example.com"))
    async with web.api.client.post(
        "/api/auth/oidc/example", headers={"Authorization": f"Bearer {stranger.access_token}"}
    ) as answer:
        url, cookie = (await answer.json())["url"], answer.headers["Set-Cookie"].partition(";")[0]
    name, _, value = cookie.partition("=")
    answer = await web.end(web.elsewhere.authorize(url), {name: value})
    assert "another user" in answer.refused(409, "idempotency_conflict")


async def test_a_disabled_user_does_not_sign_in(web, people):
    await web.sign_in()
    await people.database.execute("UPDATE users SET status = 'disabled'")
    (await web.sign_in()).refused(401, "invalid_api_key")


@pytest.mark.parametrize("policy", ["open", "verified", "approved"])
async def test_the_approval_policy_holds(billing, services, policy, elsewhere):
    registry = registry_of(billing, policy)
    people = People(billing.database, billing.new_id, registry.sessions)
    oidc = oidc_of(registry, elsewhere, trusted_email=True)
    async with serving(replace(services, oidc=oidc), billing) as api:
        proven = await Browser(api, elsewhere, oidc).sign_in()
        unproven = await Browser(api, elsewhere, oidc).sign_in(sub="eve", email=None)
    let_in = [bool((await people.who(each.json["access_token"])).scopes) for each in (proven, unproven)]
    assert let_in == {"open": [True, True], "verified": [True, False], "approved": [False, False]}[policy]
    registry.people.passwords.close()


async def test_allowed_domains(services, billing, registry, elsewhere):
    oidc = oidc_of(registry, elsewhere, allowed_domains=frozenset({"example.com"}))
    async with serving(replace(services, oidc=oidc), billing) as api:
        browser = Browser(api, elsewhere, oidc)
        assert (await browser.sign_in()).status == 200
        for claims in ({"email": "a@evil.example.com"}, {"email": "a@example.com.evil"}, {"email_verified": False}):
            assert "domains" in (await browser.sign_in(**claims)).refused(401, "invalid_api_key")


async def test_a_domain_that_is_allowed_no_more_is_refreshed_no_more(services, billing, registry, elsewhere):
    oidc, sessions = oidc_of(registry, elsewhere, allowed_domains=frozenset({"example.com"})), registry.sessions
    oidc.providers = dict(oidc.providers)
    sessions._admits = lambda name, domain: oidc.providers[name].admits(domain)
    async with serving(replace(services, oidc=oidc), billing) as api:
        pair = (await Browser(api, elsewhere, oidc).sign_in()).json

        async def refresh():
            return await api.call("POST", "/api/auth/refresh", json={"refresh_token": pair["refresh_token"]})

        pair = (await refresh()).json
        oidc.providers["example"] = replace(oidc.providers["example"], allowed_domains=frozenset({"example.org"}))
        assert (await refresh()).status == 401
        oidc.providers["example"] = replace(oidc.providers["example"], allowed_domains=frozenset())
        assert (await refresh()).status == 401  # the session has ended
    assert "no more" in str((await registry.audited("session.end"))[0]["after"])


async def test_what_the_id_token_leaves_out(web, people):
    web.elsewhere.metadata = {
        "userinfo_endpoint": f"{ISSUER}/userinfo",
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
    }
    web.elsewhere.userinfo = {"sub": "ann", "email": "ann@example.com", "email_verified": True, "name": "Ann"}
    answer = await web.sign_in(email=None, email_verified=None)
    assert (await people.who(answer.json["access_token"])).email == "ann@example.com"
    web.elsewhere.userinfo = {"sub": "eve", "email": "ann@example.com", "email_verified": True}
    (await web.sign_in(email=None, email_verified=None)).refused(401, "invalid_api_key")


async def test_github(web, people):
    web.elsewhere.emails = [
        {"email": "spam@example.com", "primary": False, "verified": True},
        {"email": "Ann@example.com", "primary": True, "verified": True},
    ]
    answer = await web.sign_in("github")
    caller = await people.who(answer.json["access_token"])
    assert (caller.email, caller.verified) == ("ann@example.com", True)
    row = await people.database.row("SELECT issuer, subject FROM user_identities")
    assert row is not None
    assert tuple(row) == ("https://github.com", "7")
    web.elsewhere.emails[1]["verified"] = False
    assert (await people.who((await web.sign_in("github")).json["access_token"])).id == caller.id


async def test_a_browser_is_sent_on(web, people):
    web.oidc.frontend_url = "https://app.example.com/start"
    query, cookies = await web.begin()
    answer = await web.end(query, cookies)
    page, _, fragment = answer.headers["Location"].partition("#")
    assert (answer.status, page) == (303, "https://app.example.com/start")
    token = dict(parse_qsl(fragment))["refresh_token"]
    assert await people.database.value("SELECT expires_at < now() + interval '61 seconds' FROM sessions")
    refreshed = await web.api.call("POST", "/api/auth/refresh", json={"refresh_token": token})
    assert (refreshed.status, refreshed.json["expires_in"]) == (200, 86_400)
    query, cookies = await web.begin(return_to="/billing?tab=1")
    answer = await web.end(query, cookies)
    assert answer.headers["Location"].startswith("https://app.example.com/billing?tab=1#refresh_token=")
    answer = await web.end({"error": "access_denied"}, cookies)
    assert answer.headers["Location"].startswith("https://app.example.com/start#error=sign_in_failed")


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "evil",
        "javascript:alert(1)",
        "/\t/evil.example",
        "/a b",
        "/a\r\nSet-Cookie: a=b",
        "/" + "a" * 1001,
        " /a",
        "/é",
    ],
)
async def test_open_redirects_are_refused(web, path):
    assert not is_path(path)
    answer = await web.api.call("GET", "/api/auth/oidc/example", params={"return_to": path}, allow_redirects=False)
    answer.refused(400, "invalid_request_error", "return_to")


async def test_nobody_has_a_provider_asked_at_will(services, billing, registry, elsewhere):
    oidc, now, asked = oidc_of(registry, elsewhere), 1000.0, list[str]()

    async def ask(url, **options):
        asked.append(url)
        await asyncio.sleep(0)
        if now < 1010:
            raise IssuerAway("away")
        return await elsewhere(url, **options)

    oidc._discovery = Discovery(ask, lambda: now)
    begun = await asyncio.gather(*(oidc.begin("example") for _ in range(20)), return_exceptions=True)
    assert len(asked) == 1
    assert all(isinstance(each, IssuerAway) for each in begun)
    now = 1010.0
    url, cookie = await oidc.begin("example")
    assert len(asked) == 2
    now += DISCOVERED_S
    elsewhere.metadata = {"issuer": "https://evil.example.com"}
    again, _ = await oidc.begin("example")
    assert again.partition("?")[0] == url.partition("?")[0]  # what it said before stays in use
    assert len(asked) == 3
    async with serving(replace(services, oidc=oidc, attempts=attempts_of(2)), billing) as api:
        path, headers = "/api/auth/oidc/example/callback?code=x&state=y", {"Cookie": f"__Host-mg_oidc={cookie}"}
        statuses = [(await api.call("GET", path, headers=headers)).status for _ in range(4)]
    assert statuses == [401, 401, 429, 429]


async def test_providers_that_are_not_there_or_are_away(web, api):
    for path in ("nobody", "nobody/callback"):
        (await web.api.call("GET", f"/api/auth/oidc/{path}")).refused(404, "not_found")
    (await api.call("GET", "/api/auth/oidc/example")).refused(404, "not_found")
    web.elsewhere.metadata = {"issuer": "https://evil.example"}
    answer = await web.api.call("GET", "/api/auth/oidc/example", allow_redirects=False)
    answer.refused(503, "temporarily_unavailable")


@dataclass
class Company:
    """An organization whose people sign in at ISSUER, and a browser of one of them."""

    billing: Billing
    registry: Registry
    browser: Browser
    organization: Organization
    owner: str

    async def rules(self, *rules: GroupRule) -> None:
        await self.registry.directories.set_rules(self.organization.id, rules, acting(self.owner))

    async def role(self, **claims: Any) -> str | None:
        """What somebody is who signs in with these claims."""
        answer = await self.browser.sign_in(**claims)
        assert answer.status == 200, answer.json
        found = await self.billing.database.value("SELECT user_id FROM user_identities WHERE subject = 'ann'")
        return (await roles(self.billing, self.organization)).get(found)


@pytest.fixture
async def company(services, billing, registry, elsewhere) -> AsyncIterator[Company]:
    owner = await new_user(billing, "boss@example.com")
    organization = await new_organization(billing, "Acme", owner, plan="enterprise")
    oidc = oidc_of(registry, elsewhere, trusted_email=True, organization=organization.id, groups_claim="groups")
    async with serving(replace(services, oidc=oidc), billing) as api:
        yield Company(billing, registry, Browser(api, elsewhere, oidc), organization, owner)


ADMINS, STAFF = GroupRule(group="admins", role="admin"), GroupRule(group="Staff", role="member", max_keys=3)


async def test_groups_of_a_sign_in_give_roles(company, people):
    await company.rules(ADMINS, STAFF)
    assert await company.role() is None
    assert await company.role(groups=["sales"]) is None
    assert await company.role(groups=["staff"]) == "member"
    assert await company.role(groups=["staff", "Admins"]) == "admin"
    assert await company.role(groups="staff") == "member"
    answer = await company.browser.sign_in(groups=["staff"])
    caller = await people.who(answer.json["access_token"])
    assert (caller.org_id, caller.role) == (company.organization.id, "member")  # and not their own one
    member = await people.database.row(
        "SELECT managed, max_keys FROM memberships WHERE org_id = $1 AND user_id = $2", caller.org_id, caller.id
    )
    assert tuple(member) == (True, 3)


async def test_who_has_lost_all_groups_is_no_member_any_more(company, people):
    await company.rules(STAFF)
    assert await company.role(groups=["staff"]) == "member"
    user_id = await people.database.value("SELECT user_id FROM user_identities")
    key, _ = await company.billing.keys.create(company.organization.account_id, "k", user_id=user_id)
    assert await company.role(groups=["sales"]) is None
    assert (await company.billing.keys.get(key.id)).revoked_at is not None
    [ended] = await people.audited("member.remove")
    assert ended["actor"] == f"user:{user_id}"
    assert await company.role(groups=["staff"]) == "member"
    assert await company.role(groups=None) is None  # none are named: none are there


@pytest.mark.parametrize(
    "claims", [{"_claim_names": {"groups": "src1"}}, {"hasgroups": True}, {"groups": [5]}, {"groups": {"a": 1}}]
)
async def test_groups_that_are_not_known_change_nothing(company, claims):
    """Entra leaves them out where there are more than 200."""
    await company.rules(STAFF)
    assert await company.role(groups=["staff"]) == "member"
    assert await company.role(**claims) == "member"


async def test_groups_that_the_provider_tells_elsewhere(company):
    await company.rules(STAFF)
    company.browser.elsewhere.metadata = {"userinfo_endpoint": f"{ISSUER}/userinfo"}
    company.browser.elsewhere.userinfo = {"sub": "ann", "groups": ["staff"]}
    assert await company.role() == "member"
    company.browser.elsewhere.userinfo = {"sub": "eve", "groups": ["staff"]}
    (await company.browser.sign_in()).refused(401, "invalid_api_key")


async def test_roles_by_hand(company, people):
    """An owner stays one; another member's role is the group's from the first sign-in on that names one."""
    user_id = await people.user()
    await join(company.billing, company.organization, user_id, "admin")
    await company.rules(STAFF)
    assert await company.role(groups=["sales"]) == "admin"
    assert await company.role(groups=["staff"]) == "member"
    await people.database.execute("UPDATE memberships SET role = 'owner' WHERE user_id = $1", user_id)
    assert await company.role(groups=["staff"]) == "owner"
    assert await company.role(groups=["sales"]) == "owner"


async def test_another_provider_s_groups_are_nobody_s(company):
    """Nor are those of a provider that no operator has bound to an organization."""
    await company.rules(GroupRule(group="*", role="member"))
    company.browser.oidc.providers["example"] = replace(company.browser.oidc.providers["example"], organization=None)
    assert await company.role(groups=["staff"]) is None


async def test_whom_the_directory_has_no_sign_in_lets_in(company, people):
    """Once SCIM has them it decides: who has left stays out, whatever groups a sign-in names."""
    await company.rules(STAFF)
    assert await company.role(groups=["staff"]) == "member"
    directory = scim_of(company.registry).directory
    actor = acting(company.owner).actor
    record = await directory.create_user(company.organization.id, {"userName": "ann@example.com"}, actor)
    await directory.change_user(company.organization.id, record.id, lambda user: {**user, "active": False}, actor)
    assert await company.role(groups=["staff"]) is None


async def test_a_place_of_somebody_unknown_decides_too(company):
    """Who was never seen here, and is not active in the directory, joins by no group."""
    await company.rules(STAFF)
    directory, actor = scim_of(company.registry).directory, acting(company.owner).actor
    given = {"userName": "ann@example.com", "active": False}
    record = await directory.create_user(company.organization.id, given, actor)
    assert await company.role(groups=["staff"]) is None
    await directory.delete_user(company.organization.id, record.id, actor)
    assert await company.role(groups=["staff"]) == "member"


async def test_a_disabled_user_gets_no_place(company, people):
    await company.rules(STAFF)
    user_id = await people.user(status="disabled")
    (await company.browser.sign_in(groups=["staff"])).refused(401, "invalid_api_key")
    assert user_id not in await roles(company.billing, company.organization)


@pytest.mark.parametrize(
    ("email", "verified", "domains", "proven"),
    [
        ("ann@acme.example", None, ["acme.example"], True),
        ("ann@acme.example", None, [], False),
        ("ann@evil.example", None, ["acme.example"], False),
        ("ann@evil.acme.example", None, ["acme.example"], False),
        ("ann@acme.example", False, ["acme.example"], False),
        ("ann@acme.example", "yes", ["acme.example"], False),
    ],
)
async def test_an_address_of_which_nothing_is_said(company, people, email, verified, domains, proven):
    """Entra does not say whether it has verified one: it is believed at the company's own domains."""
    await company.registry.directories.set_domains(company.organization.id, domains, acting(company.owner).actor)
    answer = await company.browser.sign_in(email=email, email_verified=verified)
    caller = await people.who(answer.json["access_token"])
    assert (caller.email, caller.verified) == ((email, True) if proven else (None, False))


async def test_no_other_provider_is_believed_so(web, people):
    """Nor is that of a company that no operator trusts with addresses."""
    answer = await web.sign_in(email_verified=None)
    assert not (await people.who(answer.json["access_token"])).verified


async def test_a_company_s_provider_that_is_not_trusted(company, people):
    await company.registry.directories.set_domains(
        company.organization.id, ["example.com"], acting(company.owner).actor
    )
    untrusted = replace(company.browser.oidc.providers["example"], trusted_email=False)
    company.browser.oidc.providers["example"] = untrusted
    answer = await company.browser.sign_in(email_verified=None)
    assert not (await people.who(answer.json["access_token"])).verified


async def test_who_signs_in_takes_the_place_that_scim_keeps(company):
    directory, owner = scim_of(company.registry).directory, acting(company.owner).actor
    await company.registry.directories.set_domains(company.organization.id, ["example.com"], owner)
    await directory.create_user(company.organization.id, {"userName": "ann@example.com"}, owner)
    assert await company.role(email_verified=None) == "member"
