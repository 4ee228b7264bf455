"""Checks of every page: findings of axe-core, elements wider than a phone, targets too small for a finger."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.async_api import Page

# axe-core 4.14.1, axe.min.js; its licence (MPL 2.0) is beside it.
AXE = Path(__file__).with_name("axe") / "axe.min.js"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
# Widths of phones in CSS pixels.
PHONES = (390, 360)
SCREENS = (768, 1000, 1280)
LEAST_TARGET = 44
_EVERYTHING = {
    "resultTypes": ["violations"],
    "rules": {"target-size": {"enabled": True}},
}
_COLOURS = {"resultTypes": ["violations"], "runOnly": ["color-contrast", "link-in-text-block"]}
_RUN = """async options => (await axe.run(document, options)).violations.map(found =>
    `${found.id}: ${found.help}: ` + found.nodes.map(node => node.html.slice(0, 160)).join(" | "))"""
_WIDER = """() => {
    const room = document.documentElement.clientWidth, out = [];
    if (document.documentElement.scrollWidth <= room) return out;
    for (const each of document.querySelectorAll("body *")) {
        const box = each.getBoundingClientRect();
        if (box.right > room + 1 && box.width > 1 && !each.closest("svg")) out.push(each.outerHTML.slice(0, 120));
    }
    return out.slice(-5).concat(`${document.documentElement.scrollWidth} > ${room}`);
}"""
_SMALL = """least => [...document.querySelectorAll("a, button, input, select, textarea, summary")].filter(
each => {
    if (each.closest("svg, dialog:not([open])") || !each.checkVisibility({visibilityProperty: true})) return false;
    if (each.matches("input[type=hidden]")) return false;
    const style = getComputedStyle(each);
    if (style.display === "inline" && each.parentElement.textContent.trim() !== each.textContent.trim()) return false;
    const target = each.matches("[type=checkbox], [type=radio]") ? each.closest("label") || each : each;
    const box = target.getBoundingClientRect();
    return box.right > 0 && box.width > 1 && box.height < least - 0.5;
}).map(each => `${Math.round(each.getBoundingClientRect().height)} px: ${each.outerHTML.slice(0, 120)}`)"""


def axe() -> str:
    """The script, as it was published."""
    source = AXE.read_bytes()
    assert hashlib.sha256(source).hexdigest() == AXE_SHA256
    return source.decode()


async def findings(page: "Page", *, colours: bool = False) -> list[str]:
    """What axe-core finds on a page into which its script was put; with `colours` by the rules about those alone."""
    found: list[str] = await page.evaluate(_RUN, _COLOURS if colours else _EVERYTHING)
    return found


async def ill_on_phones(page: "Page") -> list[str]:
    """What is wider than a phone, or smaller than a finger."""
    found: list[str] = []
    for width in PHONES:
        await page.set_viewport_size({"width": width, "height": 844})
        found += [f"{width} px: {each}" for each in await page.evaluate(_WIDER)]
    return [*found, *await page.evaluate(_SMALL, LEAST_TARGET)]


async def too_wide(page: "Page") -> list[str]:
    """What is wider than a screen, or than half of one."""
    found: list[str] = []
    for width in SCREENS:
        await page.set_viewport_size({"width": width, "height": 860})
        found += [f"{width} px: {each}" for each in await page.evaluate(_WIDER)]
    return found


def said(found: dict[str, Any]) -> str:
    """Findings by page, as a failed test shows them."""
    return json.dumps(found, indent=1)
