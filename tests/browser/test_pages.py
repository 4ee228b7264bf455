"""Every page that the console declares, in a real browser, by everybody who may see it: a new page is walked by itself.

METERGATE_SCREENSHOTS=1 has the walk write docs/console/ anew.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from billing.payments.assembly import Payments
from billing.web.application import ROUTES
from tests.billing.web.support import Console
from tests.browser.furnished import MODELS_SERVED, furnish, in_operation
from tests.browser.looking import axe, said
from tests.browser.visiting import (
    BY_HAND,
    Walk,
    address,
    by_need,
    visiting,
)

if TYPE_CHECKING:
    pass


@pytest.fixture
async def furnished(console: Console, payments: Payments, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Console]:
    monkeypatch.setattr("tests.billing.web.conftest.MODELS", MODELS_SERVED)
    await furnish(console, payments)
    async with in_operation(console) as served:
        yield served


async def test_every_page_is_sound_for_everybody(furnished, browser):
    linked = set()
    wrong = {}
    seen = set()
    for who in ("owner", "member", "viewer", "operator", "nobody"):
        walk = Walk(furnished, who)
        async with visiting(browser, furnished, who, complaints=walk.heard) as page:
            await page.add_init_script(axe())
            for declared in by_need(await walk.pages()):
                seen.add(declared.path)
                path = address(declared, walk.linked) or address(declared, linked)
                if path is None:
                    walk.wrong[declared.path] = ["no page links to it"]
                else:
                    await walk.look(page, path)
        for path in walk.linked - linked:
            answer = await furnished.get(path, who)
            if answer.status >= 400:
                walk.wrong.setdefault(path, []).append(f"a link leads here: HTTP {answer.status}")
        linked |= walk.linked
        wrong |= {who: walk.wrong} if walk.wrong else {}
    assert {each.path for each in ROUTES if each.method == "GET"} - seen == BY_HAND.keys()
    assert wrong == {}, said(wrong)
