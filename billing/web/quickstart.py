"""The quickstart: the first request filled in, a playground on one's own key, and the requests as they arrive.

The key of the playground stays in the page's memory: the browser sends it to the proxy at this address, as any client
does, and never to the console.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from billing.api.usage import list_events
from billing.identity.permissions import BILLING_READ, KEYS_READ
from billing.shapes.usage import EventQuery
from billing.web.forms import examples, models_of
from billing.web.visits import Page, View, Visit, key_names

if TYPE_CHECKING:
    from billing.shapes.base import Listing
    from billing.shapes.usage import EventShape

LAST: Final = 3
"""Requests that the page has."""
YOUR_KEY: Final = "YOUR_KEY"


async def quickstart(visit: Visit) -> View:
    """Show how the first request is made, and the last ones."""
    events = cast("Listing[EventShape]", await list_events(visit.call, EventQuery(limit=LAST)))
    names = await key_names(visit, (each.key_id for each in events.data)) if visit.may(KEYS_READ) else {}
    values = {
        "names": names,
        "events": events,
        "known_models": models_of(visit),
        "your_key": YOUR_KEY,
        **examples(visit),
    }
    return View("quickstart.html", values)


ROUTES: Final[tuple[Page, ...]] = (Page("GET", "/quickstart", quickstart, scope=BILLING_READ),)
