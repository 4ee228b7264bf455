"""Commands that move money show how much and by which means, and ask; without a terminal they need `--yes`. And what
customers are told of their requests, by the API alone."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ulid import ULID

from billing.cli import REFUSED, USAGE
from billing.ledger.catalogue import sync_prices
from billing.pricing import FACTOR_SCALE, PriceTable
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from tests.gateway.commands.person import Person, signed_in
from tests.gateway.conftest import ADMIN_KEY, Customer, Gateway, chat
from tests.support.commands import Result, Shell, at_terminal
from tests.support.gateways import ask

ASKED = "Continue? [y/N] "


class Operator:
    """Somebody with the admin key."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        folder.mkdir()
        self.shell = Shell(folder, {"METERGATE_API_URL": gateway.url, "ADMIN_API_KEY": ADMIN_KEY})

    async def run(self, *arguments: str) -> Result:
        return await asyncio.to_thread(self.shell.run, "operator", *arguments)

    async def asked(self, answer: str, *arguments: str) -> tuple[int, str]:
        """Run it at a terminal, and answer its question."""
        typed = {ASKED: f"{answer}\n"}
        return await asyncio.to_thread(partial(at_terminal, self.shell, "operator", *arguments, typed=typed))


@pytest.fixture
async def operator(gateway: Gateway, folder: Path) -> Operator:
    return Operator(gateway, folder / "operator")


async def balance(customer: Customer) -> str:
    return str((await customer.balance())["balance_usd"])


async def test_operators_are_asked_before_money_moves(operator, customer):
    account = customer.account_id
    for amount, *command in (
        ("1.25", "refund", account, "1.25"),
        ("2.50", "adjust", account, "--take", "2.50", "--reason", "x"),
        ("1000.01", "grant", account, "1000.01"),
        ("7.00", "coupon", "create", "Spring", "7.00"),
        ("10.00", "coupon", "create", "Summer", "10.00", "--max-redemptions", "101"),
    ):
        said = (await operator.run(*command)).failed(USAGE)
        assert amount in said, command
        assert "--yes" in said, command
    assert await balance(customer) == "5.00"
    assert (await operator.run("grant", account, "1.00")).code == 0  # not above `grant_confirm_usd`
    assert (await operator.run("coupon", "create", "Small", "10.00", "--max-redemptions", "100")).code == 0
    refund = ("refund", account, "1.25")
    code, shown = await operator.asked("n", *refund)
    assert (code, "1.25 USD" in shown, "Nothing was done" in shown) == (REFUSED, True, True)
    assert await balance(customer) == "6.00"
    code, shown = await operator.asked("y", *refund)
    assert (code, "7.25" in shown) == (0, True), shown
    done = await operator.run("adjust", account, "--take", "0.25", "--reason", "x", "--yes", "--json")
    assert done.json["balance_usd"] == await balance(customer) == "7.00"
    assert (await operator.run("grant", account, "1000.01", "--yes")).code == 0


async def test_how_much_is_granted_without_asking_is_a_setting(make_gateway, folder):
    gateway = await make_gateway(grant_confirm_usd=5)
    operator, customer = Operator(gateway, folder / "operator"), await gateway.customer("1.00")
    assert "5.01" in (await operator.run("grant", customer.account_id, "5.01")).failed(USAGE)
    assert (await operator.run("grant", customer.account_id, "5.00")).code == 0
    assert await balance(customer) == "6.00"


async def test_a_repricing_tells_its_sum_before_it_is_made(operator, gateway, customer):
    await ask(customer, chat("a b c d e f g h"))
    await gateway.flush()
    row = next(each for each in gateway.runtime.settings.prices.rows if (each.provider, each.model) == ("local", "*"))
    free = replace(row, per_million=dict.fromkeys(row.per_million, 0))
    await sync_prices(gateway.runtime.database, PriceTable([free]))
    asked = ("price", "reprice", "local/demo", "--since", "2020-01-01", "--until", "2199-01-01", "--price", free.id)
    (event,) = await customer.events()
    charge, before = event["charge_usd"], await balance(customer)
    compared = await operator.run(*asked)
    assert f"{charge} USD to be given back" in compared.stdout
    assert f"{charge} USD to be given back" in (await operator.run(*asked, "--apply")).failed(USAGE)
    assert await balance(customer) == before
    code, shown = await operator.asked("y", *asked, "--apply")
    assert (code, "1 corrected" in shown) == (0, True), shown
    assert await balance(customer) == "5.00"


async def test_an_order_is_refunded_after_a_yes(ada, operator):
    account_id = (await ada.json("billing", "status"))["account_id"]
    order = await bought(ada, "--amount-usd", "25")
    said = (await operator.run("order", "refund", order["id"], "--amount", "5.00")).failed(USAGE)
    for part in ("5.00 USD", "25.00 USD", account_id, "payment method", "--yes"):
        assert part in said
    done = await operator.run("order", "refund", order["id"], "--amount", "5.00", "--yes")
    assert "5.00 USD are refunded" in done.stdout


@pytest.fixture
async def ada(gateway: Gateway, folder: Path) -> Person:
    return await signed_in(gateway, folder / "ada")


async def bought(person: Person, *what: str) -> Any:
    """Have somebody buy, and pay on the page of the local provider; the order."""
    page = await person.json("billing", "checkout", *what, "--save-method", "--yes")
    url = person.gateway.url + urlsplit(page["url"]).path
    async with person.gateway.session.post(url, data={"action": "approve"}) as paid:
        assert paid.status == 200, await paid.text()
    async with asyncio.timeout(60):
        while True:
            (order, *_) = (await person.json("billing", "orders"))["data"]
            if order["status"] == "credited":
                return order
            await asyncio.sleep(0.05)


async def test_a_change_of_plan_shows_what_is_charged_and_asks(ada):
    said = (await ada.run("billing", "checkout", "--plan", "starter")).failed(USAGE)
    assert "99.00 USD today" in said
    await bought(ada, "--plan", "starter")
    said = (await ada.run("billing", "change-plan", "professional")).failed(USAGE)
    found = re.search(r"about ([0-9.]+) USD are charged today by (.+?), for the rest", said)
    assert found is not None, said
    assert 0 < float(found[1]) <= 200
    assert "4242" in found[2]
    assert "299.00 USD at each renewal" in said
    assert (await ada.json("billing", "status"))["plan"]["id"] == "starter"
    done = await ada.json("billing", "change-plan", "professional", "--yes")
    (invoice,) = done["invoices"]
    newest = (await ada.json("billing", "invoices"))["data"][0]
    assert invoice == newest
    assert abs(float(invoice["total_usd"]) - float(found[1])) < 1
    down = await ada.run("billing", "change-plan", "starter")
    assert "Nothing is charged today" in down.failed(USAGE)
    lowered = await ada.done("billing", "change-plan", "starter", "--yes")
    assert re.search(r"charged +nothing today", lowered), lowered


async def test_auto_recharge_shows_its_amounts_and_asks(ada):
    await bought(ada, "--amount-usd", "25")
    wish = ("--threshold-usd", "10", "--amount-usd", "20", "--monthly-cap-usd", "100")
    said = (await ada.run("billing", "auto-recharge", "set", *wish)).failed(USAGE)
    for amount in ("20 USD", "10 USD", "100 USD"):
        assert amount in said
    assert (await ada.json("billing", "auto-recharge", "show"))["state"] == "off"
    assert (await ada.json("billing", "auto-recharge", "set", *wish, "--yes"))["enabled"]


def with_markup(settings: Settings) -> Settings:
    plan = replace(settings.plans["enterprise"], markup_scaled=25 * FACTOR_SCALE)
    return replace(settings, plans={**settings.plans, "enterprise": plan}, admin_api_key=Secret(ADMIN_KEY))


@pytest.mark.parametrize("sees", ["charge", "cost"])
async def test_customers_ask_for_their_requests_by_the_api(make_gateway, folder, sees):
    """With a key of theirs, no database, and no data in their folder."""
    gateway = await make_gateway(change=with_markup, customers_see=sees)
    customer, stranger = await gateway.customer(), await gateway.customer()
    poor = await gateway.customer("0")
    answered, refused = await ask(customer, chat("a b c d e f g h")), await ask(poor, chat("a"))
    await gateway.flush()
    await gateway.runtime.refused.flush()
    request_id = answered.headers["x-request-id"]
    (event,) = await customer.events()
    run = run_as(gateway, folder / "customer")
    shown = await run(customer, "explain", request_id)
    assert f"charge         {event['charge_usd']} USD" in re.sub(r" {2,}", " " * 9, shown.stdout)
    assert ("markup" in shown.stdout) == ("cost" in shown.stdout) == (sees == "cost")
    one = (await run(customer, "explain", request_id, "--json")).json
    assert ("cost_usd" in one, "markup_percent" in one, "price_id" in one) == (sees == "cost",) * 3
    listed = await run(customer, "requests")
    assert request_id in listed.stdout
    assert event["charge_usd"] in listed.stdout
    assert (await run(customer, "requests", "--json")).json["data"] == [event]
    assert (await run(customer, "requests", "--since", "1h", "--status", "200", "--json")).json["data"] == [event]
    assert (await run(customer, "requests", "--until", "1h")).stdout == "There are none.\n"
    assert request_id in (await run(stranger, "explain", request_id)).failed(REFUSED)
    refusal_id = refused.headers["x-request-id"]
    assert "billing_required" in (await run(poor, "requests", "--refused")).stdout
    assert "billing: required usd" in (await run(poor, "explain", refusal_id)).stdout
    for command in (("requests", "--refused"), ("explain", refusal_id)):
        assert "metergate operator" not in (await run(poor, *command, "--json")).stdout
    assert refusal_id in (await run(customer, "explain", refusal_id)).failed(REFUSED)
    assert not (folder / "customer" / "data").exists()


def run_as(gateway: Gateway, folder: Path) -> Callable[..., Any]:
    """Run commands with the key of a customer, in one folder."""
    folder.mkdir()

    async def run(customer: Customer, *arguments: str) -> Result:
        env = {"METERGATE_API_URL": gateway.url, "METERGATE_API_TOKEN": customer.key}
        return await asyncio.to_thread(Shell(folder, env).run, *arguments)

    return run


async def test_who_is_signed_in_is_explained_by_the_api_where_there_is_no_data(ada):
    said = (await ada.run("explain", str(ULID()))).failed(REFUSED)
    assert "Your account has no request" in said


async def test_a_service_without_mail_says_so_when_somebody_registers(make_gateway, folder, monkeypatch):
    gateway = await make_gateway()
    person = Person(gateway, folder / "eve", "eve@example.com")
    said = await person.done("auth", "register", "--email", person.email, METERGATE_PASSWORD="tulip anvil quartz row")
    assert "not send mail" in said
    for forgot in (("auth", "forgot", "--email", person.email), ("auth", "login", "--mail-code", "--email", "a@b.de")):
        assert "not send mail" in await person.done(*forgot)
    monkeypatch.setenv("METERGATE_MAIL_CONSOLE", "1")  # as `metergate up` has it
    shown = await make_gateway()
    with_console = Person(shown, folder / "bob", "bob@example.com")
    register = ("auth", "register", "--email", with_console.email)
    assert "on its way" in await with_console.done(*register, METERGATE_PASSWORD="tulip anvil quartz row")
