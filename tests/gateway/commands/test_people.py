"""Commands of people against a gateway that serves: organizations and invitations, passwords, authenticator apps."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from billing.identity.codes import TOTP_STEP_S, totp_code
from billing.quotas import Metric, Quota, Window
from gateway.config.settings import Settings
from tests.gateway.commands.person import GOOD, OTHER, Person, signed_in
from tests.gateway.conftest import Customer, Gateway, chat
from tests.support.gateways import ask, refusal

pytestmark = pytest.mark.slow


@pytest.fixture
async def ada(gateway: Gateway, folder: Path) -> Person:
    return await signed_in(gateway, folder / "ada")


async def test_an_organization_from_its_foundation_to_its_transfer(ada, folder):
    bob = await signed_in(ada.gateway, folder / "bob")
    made = await ada.json("org", "create", "Acme Corp")
    assert "metergate auth token --org" in await ada.done("org", "create", "Another")
    acme = ("--org", made["slug"])
    assert {each["slug"] for each in (await ada.json("org", "list"))["data"]} >= {made["slug"], "another"}
    assert (await ada.json("org", "show", *acme))["id"] == made["id"]
    assert (await ada.json("org", "show"))["personal"]  # that of the token
    assert (await ada.json("org", "rename", "Acme", "--slug", "acme", "--org", made["id"]))["name"] == "Acme"
    acme = ("--org", "acme")
    (await ada.run("org", "rename", *acme)).failed(2)
    assert "those are" in (await ada.run("org", "members", "--org", "nobody-s")).failed(1)
    assert "(not_found)" in (await bob.run("org", "show", "--org", made["id"])).failed(1)

    await plan_for_more(ada.gateway, made["account_id"])
    invited = await ada.json("org", "invite", bob.email, "--role", "viewer", *acme)
    first = await bob.mailed(r"^ {4}[\w-]{43}$")
    assert "again" in (await ada.run("org", "invite", bob.email, *acme)).failed(1)
    assert (await ada.json("org", "resend-invitation", invited["id"], *acme))["sends"] == 2
    (await bob.run("org", "accept", METERGATE_INVITATION=first)).failed(1)
    (await bob.run("org", "accept")).failed(2)  # nobody to ask
    joined = await bob.json("org", "accept", METERGATE_INVITATION=await bob.mailed(r"^ {4}[\w-]{43}$"))
    assert (joined["slug"], joined["role"]) == ("acme", "viewer")
    other = await ada.json("org", "invite", "eve@example.com", *acme)
    assert "revoked" in await ada.done("org", "revoke-invitation", other["id"], *acme)
    statuses = {each["email"]: each["status"] for each in (await ada.json("org", "invitations", *acme))["data"]}
    assert statuses == {bob.email: "accepted", "eve@example.com": "revoked"}

    members = {each["email"]: each["user_id"] for each in (await ada.json("org", "members", *acme))["data"]}
    assert "admin now" in await ada.done("org", "role", members[bob.email], "admin", *acme)
    assert (await ada.json("org", "transfer", members[bob.email], "--become", "member", *acme))["role"] == "member"
    assert "org:transfer" in (await ada.run("org", "transfer", members[bob.email], *acme)).failed(1)
    assert "no longer a member" in await bob.done("org", "remove", members[ada.email], *acme)
    assert bob.email in await bob.done("org", "members", *acme)


async def plan_for_more(gateway: Gateway, account_id: str) -> None:
    """The shipped free plan is for one person."""
    await gateway.admin("PATCH", f"/accounts/{account_id}", {"plan": "enterprise"})


async def test_a_second_factor_and_a_password_that_was_forgotten(ada):
    login = ("auth", "login", "--email", ada.email)
    made = await ada.json("auth", "totp", "enrol", METERGATE_PASSWORD=GOOD)
    assert made["secret"] in made["uri"]
    step = int(time.time()) // TOTP_STEP_S
    code, next_code = totp_code(made["secret"], step), totp_code(made["secret"], step + 1)
    codes = (await ada.json("auth", "totp", "confirm", METERGATE_SECOND_FACTOR=code))["recovery_codes"]
    (await ada.run(*login, METERGATE_PASSWORD=GOOD)).failed(2)  # nobody to ask for the code
    (await ada.run(*login, METERGATE_PASSWORD=GOOD, METERGATE_SECOND_FACTOR=code)).failed(1)  # it was used
    await ada.done(*login, METERGATE_PASSWORD=GOOD, METERGATE_SECOND_FACTOR=next_code)
    assert ada.email in await ada.piped(f"{GOOD}\n{codes[0]}\n", *login, "--password-stdin")
    renewed = await ada.done("auth", "totp", "recovery-codes", METERGATE_SECOND_FACTOR=codes[1])
    assert "shown only now" in renewed
    last = {"METERGATE_PASSWORD": GOOD, "METERGATE_SECOND_FACTOR": renewed.split()[-1]}
    assert "removed" in await ada.done("auth", "totp", "off", **last)

    assert "not send mail" in await ada.done("auth", "forgot", "--email", ada.email)  # it stays in the outbox here
    reset = {"METERGATE_RESET_TOKEN": await ada.mailed(r"^otc_\S+$"), "METERGATE_NEW_PASSWORD": OTHER}
    assert "metergate auth login" in await ada.done("auth", "reset", **reset)
    assert "metergate auth login" in (await ada.run("keys", "list")).failed(1)  # every session has ended
    (await ada.run(*login, METERGATE_PASSWORD=GOOD)).failed(1)
    await ada.done(*login, METERGATE_PASSWORD=OTHER)


async def test_where_an_account_stands_and_what_to_do(ada):
    account = f"/accounts/{(await ada.json('billing', 'status'))['account_id']}"
    empty = await ada.run("billing", "status", "--json")
    assert (empty.json["state"], empty.json["month"]["spent_usd"]) == ("billing_required", "0.00")
    assert empty.json["guidance"] in await ada.done("billing", "status")
    await ada.gateway.admin("POST", f"{account}/grants", {"amount_usd": "5", "idempotency_key": "1"})
    quotas = [{"window": "day", "metric": "requests", "limit": 0}, {"window": "hour", "metric": "tokens", "limit": 9}]
    await ada.gateway.admin("PUT", f"{account}/quotas", {"quotas": quotas})
    shown = await ada.done("billing", "status")
    assert "quota exhausted" in shown
    [line] = [line for line in shown.splitlines() if line.startswith("[")]
    assert [(each["window"], each["limit"]) for each in json.loads(line)] == [("day", 0)]  # as the server told it
    assert "A quota is used up" in shown
    assert "Whoever runs this gateway can raise it." in shown  # the account's own: no plan does
    assert "metergate billing checkout" not in shown


def one_request_a_day(settings: Settings) -> Settings:
    """Settings whose free plan is used up after one request."""
    quotas = (Quota(Window.day, Metric.requests, 1),)
    free = replace(settings.plans["free"], quotas=quotas, upgrade_to="starter")
    return replace(settings, plans={**settings.plans, "free": free})


async def test_a_plan_that_is_used_up_names_the_command_for_the_next(make_gateway, folder):
    ada = await signed_in(await make_gateway(change=one_request_a_day), folder / "ada")
    account_id = (await ada.json("billing", "status"))["account_id"]
    grant = {"amount_usd": "5", "idempotency_key": "1"}
    await ada.gateway.admin("POST", f"/accounts/{account_id}/grants", grant)
    key = (await ada.gateway.admin("POST", "/keys", {"account_id": account_id, "name": "k"}))["key"]
    customer = Customer(ada.gateway, account_id, "", key)
    assert (await ask(customer, chat())).status == 200
    error = refusal(await ask(customer, chat()), 429, "quota_exceeded")
    url = error["upgrade"]["url"]
    assert f"The plan Starter has more: {url}." in error["message"]
    found = await ada.json("billing", "status")
    assert (found["state"], found["next"]) == ("quota_exhausted", "metergate billing checkout --plan starter")
    assert found["guidance"].endswith(f"The plan Starter has more, for 99.00 USD a month: {url}.")
    assert "Run: metergate billing checkout --plan starter" in await ada.done("billing", "status")
    assert (await ada.json(*found["next"].split()[1:], "--yes"))["order"]["plan"] == "starter"


async def test_buying_and_what_happens_when_credit_runs_low(ada):
    asked = ("billing", "checkout", "--amount-usd", "25", "--idempotency-key", "first")
    first, again = await ada.run(*asked), await ada.json(*asked)
    assert first.stdout.strip() == again["url"]
    assert "25.00 USD of credit" in first.stderr
    assert "99.00 USD a month" in (await ada.run("billing", "checkout", "--plan", "starter", "--yes")).stderr
    assert "one of the two" in (await ada.run("billing", "checkout")).failed(2)
    assert "begin one" in (await ada.run("billing", "change-plan", "starter")).failed(1)
    assert "299.00" in await ada.done("billing", "plans")
    listed = (await ada.done("billing", "orders", "--status", "open")).splitlines()
    assert [line.split()[1:4] for line in listed[1:]] == [["starter", "99.00", "0.00"], ["credit", "25.00", "0.00"]]
    assert await ada.done("billing", "invoices") == "There are none.\n"

    made = await ada.gateway.admin("POST", "/coupons", {"name": "Spring", "amount_usd": "5"})
    assert "5.00 USD of Spring: the balance is 5.00." in await ada.done("billing", "redeem", made["code"].lower())
    assert "already" in (await ada.run("billing", "redeem", made["code"])).failed(1)
    assert "less than 2.50 USD" in await ada.done("billing", "alert", "--low-balance-usd", "2.50")
    assert (await ada.json("billing", "alert", "--default"))["is_default"]
    assert "off" in await ada.done("billing", "auto-recharge", "off")
    wish = ("--threshold-usd", "10", "--amount-usd", "20")
    assert "--monthly-cap-usd" in (await ada.run("billing", "auto-recharge", "set", *wish)).failed(2)
    wish += ("--monthly-cap-usd", "100")
    assert "metergate billing setup" in (await ada.run("billing", "auto-recharge", "set", *wish, "--yes")).failed(1)
    assert (await ada.json("billing", "auto-recharge", "show"))["state"] == "off"


async def test_what_one_person_asks_for(ada, subtests):
    for check in (check_days_begin_where_they_are_asked_for, check_where_notices_are_sent_to, check_pages_to_pay_at):
        with subtests.test(check.__name__):
            await check(ada)


async def check_days_begin_where_they_are_asked_for(ada: Person) -> None:
    utc = (await ada.json("usage", "buckets", "--granularity", "day", "--since", "2026-03-28"))["data"][0]
    asked = ("usage", "buckets", "--granularity", "day", "--since", "2026-03-28", "--tz", "Asia/Kathmandu")
    there = (await ada.json(*asked))["data"][0]
    assert (utc["start"], there["start"]) == ("2026-03-28T00:00:00.000Z", "2026-03-27T18:15:00.000Z")
    assert "Asia/Kathmandu" in await ada.done("usage", "summary", "--tz", "Asia/Kathmandu")
    assert "tz" in (await ada.run("usage", "summary", "--tz", "Nowhere/Else")).failed(1)
    (await ada.run("usage", "events", "--tz", "Asia/Kathmandu")).failed(2)


async def check_where_notices_are_sent_to(ada: Person) -> None:
    added = await ada.json("webhooks", "add", "https://example.com/hooks", "--type", "balance.low")
    assert added["types"] == ["balance.low"]
    assert (await ada.json("webhooks", "rotate", added["id"]))["secret"] != added["secret"]
    assert f"webhooks deliveries {added['id']}" in await ada.done("webhooks", "test", added["id"])
    [sent] = (await ada.json("webhooks", "deliveries", added["id"]))["data"]
    assert sent["type"] == "test"
    assert sent["id"] in await ada.done("webhooks", "redeliver", added["id"], sent["id"])
    assert "balance.low" in await ada.done("webhooks", "list")
    assert "removed" in await ada.done("webhooks", "remove", added["id"])
    assert await ada.done("webhooks", "list") == "There are none.\n"
    assert "types" in (await ada.run("webhooks", "add", "https://example.com/", "--type", "nope")).failed(1)


async def check_pages_to_pay_at(ada: Person) -> None:
    assert "metergate billing setup" in await ada.done("billing", "status")
    page = await ada.run("billing", "setup", "--amount-usd", "12.50")
    assert "/pay/" in page.stdout
    assert "metergate billing status" in page.stderr
    assert (await ada.json("billing", "setup", "--amount-usd", "7"))["order"]["amount_usd"] == "7.00"
    assert (await ada.json("billing", "setup", "--save-only"))["order"] is None
    (await ada.run("billing", "setup", "--save-only", "--amount-usd", "7")).failed(2)
    elsewhere = ("--return-url", "https://elsewhere.example.com/")
    assert "allowed origin" in (await ada.run("billing", "setup", *elsewhere)).failed(1)
    assert "allowed origin" in (await ada.run("billing", "portal", *elsewhere)).failed(1)
    assert "/pay/" in (await ada.json("billing", "portal"))["url"]
    await ada.done("auth", "token", "--scope", "billing:read")
    assert "metergate auth token" in (await ada.run("billing", "setup")).failed(1)


async def test_the_directory_of_an_organization(ada):
    """Its rules and tokens, by an owner's commands; what it calls is the address that they show."""
    made = await ada.json("org", "create", "Acme")
    acme = ("--org", made["slug"])
    await ada.gateway.admin("PUT", f"/orgs/{made['id']}/domains", {"domains": ["acme.example"]})
    shown = await ada.json("org", "scim", "show", *acme)
    assert (shown["domains"], shown["people"], shown["groups"]) == (["acme.example"], 0, 0)
    token = (await ada.json("org", "scim", "create-token", "Okta", *acme))["token"]
    assert "shown only now" in await ada.done("org", "scim", "create-token", "Entra", *acme)
    headers = {"Authorization": f"Bearer {token}"}
    async with ada.gateway.session.get(f"{ada.gateway.url}/scim/v2/Users", headers=headers) as answer:
        assert answer.status == 200
    [entra, okta] = (await ada.json("org", "scim", "tokens", *acme))["data"]
    assert (entra["last_used_at"], okta["last_used_at"] is None) == (None, False)
    await ada.done("org", "scim", "revoke-token", okta["id"], *acme)
    async with ada.gateway.session.get(f"{ada.gateway.url}/scim/v2/Users", headers=headers) as answer:
        assert answer.status == 401

    async def rule(*given):
        return [each["group"] for each in (await ada.json("org", "scim", "rule", *given, *acme))["rules"]]

    assert await rule("*", "viewer") == ["*"]
    assert await rule("Staff", "member", "--max-keys", "5", "--quota", "month:cost=50") == ["Staff", "*"]
    assert await rule("Admins", "admin") == ["Staff", "Admins", "*"]
    assert await rule("admins", "admin", "--first") == ["admins", "Staff", "*"]
    assert await rule("staff", "viewer") == ["admins", "staff", "*"]
    (await ada.run("org", "scim", "rule", "Staff", "owner", *acme)).failed(2)
    assert "as they are" in await ada.done("org", "scim", "rules", *acme)
    (await ada.run("org", "scim", "remove-rule", "none", *acme)).failed(1)
    left = await ada.json("org", "scim", "remove-rule", "STAFF", *acme)
    assert [each["group"] for each in left["rules"]] == ["admins", "*"]
