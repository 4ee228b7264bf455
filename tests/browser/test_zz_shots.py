import os
from tests.browser.test_pages import furnished, furnish
from tests.browser.visiting import Walk, address, by_need, visiting

OUT = os.environ.get("SHOTS", "/tmp/shots")


async def test_shots(furnished, browser):
    os.makedirs(OUT, exist_ok=True)
    linked = set()
    only = os.environ.get("ONLY")
    for who in ("owner", "operator", "nobody"):
        walk = Walk(furnished, who)
        async with visiting(browser, furnished, who, complaints=walk.heard) as page:
            for d in by_need(await walk.pages()):
                path = address(d, walk.linked) or address(d, linked)
                if path is None:
                    continue
                await page.set_viewport_size({"width": 1280, "height": 860})
                await page.goto(f"{walk.base}{path}")
                walk.linked |= {
                    u[len(walk.base) :].split("?")[0].split("#")[0]
                    for u in await page.evaluate("[...document.links].map(e=>e.href)")
                    if u.startswith(walk.base)
                }
                name = (who + path).replace("/", "-").strip("-")
                if only and only not in name:
                    continue
                for w, scheme in ((1280, "light"), (768, "dark"), (390, "light")):
                    await page.emulate_media(color_scheme=scheme)
                    await page.set_viewport_size({"width": w, "height": 860})
                    h = min(2200, int(await page.evaluate("document.documentElement.scrollHeight")))
                    await page.screenshot(
                        path=f"{OUT}/{name[:60]}.{w}.png",
                        full_page=True,
                        clip={"x": 0, "y": 0, "width": w, "height": h},
                    )
        linked |= walk.linked
