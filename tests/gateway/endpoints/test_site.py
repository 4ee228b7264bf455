"""The documentation at /docs: every page, its links, the search and the reference."""

import re
from html import unescape
from urllib.parse import urljoin, urlsplit

from billing.api.reference import GROUPS
from gateway.endpoints import site
from tests.support.commands import CHECKOUT
from tests.support.gateways import fetch

REFERENCES = ("docs/reference", *(f"docs/reference/{name}" for name in GROUPS))


async def looked_at(gateway, path: str):
    fetched = await fetch(gateway.session.get(f"{gateway.url}/{path}"))
    return fetched.status, fetched.headers, fetched.body.decode("utf-8", "replace")


def test_it_is_the_repository_s_pages_and_the_home_lists_each():
    assert site.PAGES.resolve() == (CHECKOUT / "docs").resolve()
    listed = {name for _, links in site.site().groups for name, _ in links}
    assert listed == site.site().pages.keys() - {site.HOME}


async def test_every_page_is_served_to_anyone_and_its_links_lead_somewhere(gateway):
    paths = ("docs", *(f"docs/{name}" for name in site.site().pages), *REFERENCES, "docs/search?q=quota")
    known: dict[str, tuple[int, str]] = {}
    for path in paths:
        status, headers, text = await looked_at(gateway, path)
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8"), path
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert not re.search(r"<script(?! src=)|<[^>]*\s(style|on\w+)=", text), path
        known[path.partition("?")[0]] = (status, text)
    for path, (_, text) in list(known.items()):
        for link in map(unescape, re.findall(r'(?:href|src)="([^"]+)"', text)):
            target = urlsplit(urljoin(f"{gateway.url}/{path}", link))
            if link.startswith(("https://", "http://", "data:", "mailto:")) or target.path.startswith("/v1/"):
                continue
            name = target.path.removeprefix("/")
            if name not in known:
                status, _, body = await looked_at(gateway, name)
                known[name] = (status, body)
            assert known[name][0] < 400, f"{path}: {link}"
            if target.fragment:
                assert f'id="{target.fragment}"' in known[name][1], f"{path}: {link}"


async def test_headings_of_a_page_are_all_there(gateway):
    _, _, text = await looked_at(gateway, "docs/api")
    for heading in re.findall(r"^## (.+)$", (site.PAGES / "api.md").read_text("utf-8"), re.MULTILINE):
        assert heading in unescape(text)
    assert "<table>" in text


async def test_a_search_finds_what_has_every_word_and_shows_it_around(gateway):
    _, _, text = await looked_at(gateway, "docs/search?q=capacity_held+WAITS")
    found = re.search(r'<a href="./limits#[^"]+">', text)
    assert found, text
    assert "<mark>" in text
    _, _, text = await looked_at(gateway, "docs/search?q=<b>nothing</b>")
    assert "Nothing is about “&lt;b&gt;nothing&lt;/b&gt;”" in text
    results = site.site().find("a " * 1_000)
    assert 0 < len(results) <= site.MOST_FOUND
    for each in site.site().find("refund"):
        text = each.section.text.split()
        assert set(f"{each.before.removeprefix('… ')}{each.word}{each.after.removesuffix(' …')}".split()) <= set(text)


async def test_results_that_are_put_into_another_page_lead_from_there(gateway):
    for page, link in (
        ("docs", "docs/api#errors"),
        ("docs/api", "./api#errors"),
        ("docs/reference/keys", "../api#errors"),
    ):
        for shown_on in (f"{gateway.url}/{page}", f"https://example.com/under/{page}?x=1"):
            asked = gateway.session.get(
                f"{gateway.url}/docs/search?q=capacity_held", headers={"HX-Current-URL": shown_on}
            )
            async with asked as answer:
                assert f'href="{link}"' in await answer.text(), shown_on
                assert answer.headers["Vary"] == "HX-Current-URL"


async def test_what_is_not_there_is_said_and_no_other_file_is_served(gateway):
    for path in (
        "docs/nothing",
        "docs/reference/nothing",
        "docs/console/nothing.light.png",
        "docs/console/usage.dark.txt",
    ):
        status, _, _ = await looked_at(gateway, path)
        assert status == 404, path
    status, headers, _ = await looked_at(gateway, "docs/console/usage.dark.png")
    assert (status, headers["Content-Type"]) == (200, "image/png")
