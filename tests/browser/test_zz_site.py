import os
from tests.browser.conftest import watched
OUT="/tmp/shots_site"
async def test_shots(served, browser):
    os.makedirs(OUT, exist_ok=True)
    async with watched(browser, served.url) as page:
        for name in ("","/why","/limits","/console","/reference","/reference/account","/search?q=quota"):
            await page.goto(f"{served.url}/docs{name}")
            for w,scheme in ((1280,"light"),(768,"dark"),(390,"light")):
                await page.emulate_media(color_scheme=scheme)
                await page.set_viewport_size({"width":w,"height":1000})
                h=min(1600,int(await page.evaluate("document.documentElement.scrollHeight")))
                await page.screenshot(path=f"{OUT}/{(name or '/home')[1:].replace('/','-').replace('?','-')}.{w}.png",full_page=True,clip={"x":0,"y":0,"width":w,"height":h})
