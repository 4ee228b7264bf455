"""A chart as people use it: pointed at, touched, by keys, and filtered by its legend."""

import re
from typing import TYPE_CHECKING

import pytest

from tests.browser.looking import axe, findings
from tests.browser.test_pages import furnished
from tests.browser.visiting import visiting

if TYPE_CHECKING:
    from playwright.async_api import Page

__all__ = ["furnished"]
# A phone, a tablet and a screen, one of which is dark.
WIDTHS = ((390, "light"), (768, "dark"), (1280, "light"))
FOCUSED = "document.activeElement.getAttribute('aria-label')"
STOPS = "[...document.querySelectorAll('.chart svg a')].filter(each => each.tabIndex === 0).length"
BARS = "document.querySelectorAll('.chart svg a').length"
# Texts of the drawing that lie over one another.
OVERPRINTED = """() => {
    const boxes = [...document.querySelectorAll(".chart text")]
        .map(each => [each.textContent, each.getBoundingClientRect()]).filter(([, box]) => box.width);
    const over = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
    return boxes.flatMap(([name, box], at) => boxes.slice(at + 1).filter(([, other]) => over(box, other))
        .map(([other]) => `${name} over ${other}`));
}"""


@pytest.mark.parametrize(("width", "scheme"), WIDTHS)
async def test_a_chart_is_read_by_pointing_by_keys_and_by_its_legend(furnished, browser, width, scheme):
    base = str(furnished.client.make_url("/console"))
    async with visiting(
        browser, furnished, "owner", viewport={"width": width, "height": 860}, color_scheme=scheme
    ) as page:
        await page.add_init_script(axe())
        await page.goto(f"{base}/usage?period=30d")
        readout, bars = page.locator(".readout"), page.locator(".chart svg a")
        assert await page.evaluate(OVERPRINTED) == []
        assert not await readout.is_visible()
        await bars.nth(12).hover()
        said = await readout.inner_text()
        assert re.match(r"\d{4}-\d\d-\d\d: \$\d", said)
        assert "fast" in said
        assert await findings(page) == []

        await bars.first.focus()
        stops = await page.evaluate(
            "[...document.querySelectorAll('.chart svg a')].filter(e => e.tabIndex === 0).length"
        )
        assert stops == 1
        first = await page.evaluate(FOCUSED)
        await page.keyboard.press("ArrowRight")
        assert (second := await page.evaluate(FOCUSED)) != first
        assert (await readout.inner_text()).split("\n")[0] in second
        await page.keyboard.press("End")
        last = await page.evaluate(FOCUSED)
        await page.keyboard.press("Escape")
        assert not await readout.is_visible()
        await page.keyboard.press("Tab")
        assert "Hide" in (label := await _named(page)) or "hide" in label

        await page.keyboard.press("Enter")  # the first series is left out, and the focus stays
        await page.wait_for_url(re.compile("hide="))
        assert await bars.last.get_attribute("aria-label") != last
        assert "hidden, show it" in await _named(page)
        await page.get_by_role("link", name="Show all").click()
        await page.wait_for_url(lambda url: "hide=" not in url)
        await page.get_by_role("link", name="Tokens", exact=True).click()
        await page.wait_for_url(re.compile("unit=tokens"))
        assert "$" not in await bars.last.get_attribute("aria-label")
        await page.get_by_role("link", name="Money", exact=True).click()
        await page.wait_for_url(re.compile("unit=money"))
        await bars.last.focus()
        await page.keyboard.press("Enter")
        await page.wait_for_url(re.compile("period=chosen"))
        assert 1 < await page.evaluate(BARS) <= 24  # the hours of that day that have begun


async def _named(page: "Page") -> str:
    return str(await page.evaluate("document.activeElement.textContent"))


async def test_a_finger_reads_a_bar_and_another_tap_follows_it(furnished, browser):
    base = str(furnished.client.make_url("/console"))
    async with visiting(
        browser, furnished, "owner", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    ) as page:
        await page.goto(f"{base}/usage?period=7d")
        bar = page.locator(".chart svg a").nth(5)
        await bar.tap()
        assert (await page.locator(".readout").inner_text()).split("\n")[0] in await bar.get_attribute("aria-label")
        assert "period=7d" in page.url
        await page.get_by_role("heading", name="Usage").tap()
        assert not await page.locator(".readout").is_visible()
        await bar.tap()
        await bar.tap()
        await page.wait_for_url(re.compile("period=chosen"))


async def test_the_menu_is_at_the_top_and_filters_are_folded_where_there_is_little_room(furnished, browser):
    base = str(furnished.client.make_url("/console"))
    for scripts in (True, False):
        async with visiting(
            browser, furnished, "owner", viewport={"width": 390, "height": 844}, java_script_enabled=scripts
        ) as page:
            await page.goto(f"{base}/requests")
            field = page.get_by_label("Provider", exact=True)
            assert not await field.is_visible()
            await page.get_by_text("Filters", exact=True).click()
            assert await page.get_by_label("Model", exact=True).is_visible()
            assert not await field.is_visible()
            await page.get_by_text("More filters", exact=True).click()
            assert await field.is_visible()
            keys = page.get_by_role("link", name="Keys", exact=True)
            assert not await keys.is_visible()
            await page.get_by_text("Menu", exact=True).click()
            assert await page.get_by_role("button", name="Sign out").is_visible()
            assert (await keys.bounding_box())["y"] < 844
            await keys.click()
            await page.get_by_role("heading", name="Keys").wait_for()
        async with visiting(browser, furnished, "owner", java_script_enabled=scripts) as page:
            await page.goto(f"{base}/requests")
            assert await page.get_by_label("Status", exact=True).is_visible()
            assert not await page.get_by_text("Menu", exact=True).is_visible()
