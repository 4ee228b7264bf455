"""What pages tell of the provider's cost, for an account with a markup of 25 %: every page, as HTML and as a table."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from billing.ledger.catalogue import sync_prices
from billing.money import format_usd
from billing.permissions import ROLES
from billing.pricing import FACTOR_SCALE
from billing.usage import Usage
from billing.web.application import ROUTES
from billing.web.pages import Who
from tests.billing.support import PRICE, PRICES
from tests.billing.web.paths import PATHS
from tests.billing.web.support import Console, serving

# Of one of the requests, and of both.
COSTS_NANO = 211_350, 422_700
WORDS = ("Price row", "Markup", "cost_usd", "price_id", "markup_percent", "% that your plan adds")
USAGE = Usage(input_tokens=1003, output_tokens=103, cached_input_tokens=12)


async def use(console: Console) -> dict[str, str]:
    """Have the organization use something, and return what stands for names in paths."""
    await sync_prices(console.billing.database, PRICES)
    account_id, owner = console.organization.account_id, console.persons["owner"]
    key, _ = await console.billing.keys.create(account_id, "laptop", user_id=owner)
    for _ in COSTS_NANO:
        event_id = await console.billing.debit(
            account_id, key.id, USAGE, admitted_at=datetime.now(UTC), user_id=owner, markup_scaled=25 * FACTOR_SCALE
        )
    return {**PATHS, "event_id": event_id, "request_id": event_id, "key_id": key.id, "user_id": owner}


def told(text: str) -> set[str]:
    """What a page tells of the cost."""
    amounts = {format_usd(nano) for nano in COSTS_NANO}
    found = {each for each in (*WORDS, PRICE.id) if each in text}
    return found | {each for each in amounts if f'"{each}"' in text or f"${each} " in text or f",{each}," in text}


@pytest.mark.parametrize("sees", ["charge", "cost"])
async def test_pages_of_customers_have_no_cost(console, sees):
    services = replace(console.services, customers_see=sees)
    async with serving(services, console) as seen_at:
        ids = await use(seen_at)
        event = await seen_at.billing.reports.priced_event(ids["event_id"])
        assert (event.event.cost_nano, event.event.charged_nano) == (COSTS_NANO[0], -(-COSTS_NANO[0] * 5 // 4))
        found = {}
        for page in ROUTES:
            if page.method != "GET" or page.who is Who.operator:
                continue
            for role in ROLES:
                for more in ({}, {"format": "csv"}) if page.csv else ({},):
                    shown = await seen_at.get(page.path.format_map(ids), role, params=more)
                    assert shown.status != 500
                    if shown.status == 200 and (said := told(shown.text)):
                        found.setdefault(page.path, set()).update(said)
        if sees == "charge":
            assert found == {}
        else:
            assert {"Price row", "Markup", PRICE.id} <= found["/requests/{event_id}"]
            assert {"cost_usd", "price_id"} <= found["/requests"]
        operators = await seen_at.get(f"/operator/requests/{ids['event_id']}", "operator")
        assert {"Price row", "Markup", PRICE.id} <= told(operators.text)
