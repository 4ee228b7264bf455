"""The documentation as a site at /docs: the Markdown pages of `docs/`, a search over them, and the reference of every
endpoint, on which one can try them.

The pages are a part of what is installed (`gateway/pages/docs`), so that they are there from a wheel, too. They are
read and made into HTML once, beside the event loop, when somebody first looks; HTML in the Markdown stays text. Links
are relative, so that they work below any path that a proxy takes off.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from markupsafe import Markup, escape

from billing.api.application import DESCRIBED
from billing.api.reference import GROUPS, group_of, sections
from billing.api.route import in_parts
from billing.web.render import assets, templates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markdown_it import MarkdownIt
    from markdown_it.token import Token

PAGES: Final = Path(__file__).parent.parent / "pages" / "docs"
HOME: Final = "index"
REFERENCE: Final = "reference"
# Of a search: what is read of it, how many words, and how many results.
MOST_TYPED: Final = 100
MOST_WORDS: Final = 8
MOST_FOUND: Final = 20
# What a result shows of its text, around the first word that was found.
SHOWN: Final = 160
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_HTML: Final = "text/html; charset=utf-8"
DOCS: Final = "/docs"
# The address of the page into which htmx puts an answer.
SHOWN_ON: Final = "HX-Current-URL"
_NO_WORD: Final = re.compile(r"[^\w]+")
_LIGHT: Final = ".light."
_MOST_WEIGHT: Final = 5


def anchor(heading: str) -> str:
    """Return what a link to a heading names, as code hosts do: its words in lower case, without apostrophes, joined by
    hyphens."""
    return _NO_WORD.sub("-", heading.lower().replace("'", "")).strip("-")


@dataclass(frozen=True, slots=True)
class Section:
    """What a heading is above, as plain text: a result of a search leads to it."""

    page: str
    of: str
    title: str
    anchor: str
    text: str

    @property
    def href(self) -> str:
        """Return its address, from that of the home."""
        return f"{self.page}#{self.anchor}" if self.anchor else self.page


@dataclass(frozen=True, slots=True)
class Page:
    """One page, as it was parsed, and its parts."""

    name: str
    title: str
    tokens: Sequence[Token]
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What a search has found: where, and the text around."""

    section: Section
    before: str
    word: str
    after: str


@dataclass(frozen=True, slots=True)
class Site:
    """All pages by name, and the navigation: groups of pages with what each is called."""

    pages: dict[str, Page]
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]

    def find(self, typed: str) -> list[Result]:
        """Return the sections that have every word that was typed, those first that have them in their titles."""
        words = typed[:MOST_TYPED].lower().split()[:MOST_WORDS]
        found: list[tuple[int, Section]] = []
        for page in self.pages.values():
            for each in page.sections:
                title, of, text = each.title.lower(), each.of.lower(), each.text.lower()
                if words and all(word in title or word in of or word in text for word in words):
                    found.append((sum(_weight(word, title, of, text) for word in words), each))
        found.sort(key=lambda each: -each[0])
        return [_result(each, words) for _, each in found[:MOST_FOUND]]


def _weight(word: str, title: str, of: str, text: str) -> int:
    """Return how much a section is about a word: its own title says more than its page's, and that more than its
    text."""
    return 20 * (word in title) + 15 * (word in of) + min(text.count(word), _MOST_WEIGHT)


def _result(section: Section, words: Sequence[str]) -> Result:
    text = section.text
    word = next((each for each in words if each in text.lower()), "")
    at = max(text.lower().find(word), 0)
    start, end = max(0, at - SHOWN // 3), at + len(word)
    before, after = text[start:at], text[end : start + SHOWN]
    if start:  # no word is cut
        before = f"… {before.partition(' ')[2]}"
    if start + SHOWN < len(text):
        after = f"{after.rpartition(' ')[0]} …"
    return Result(section, before, text[at:end], after)


@cache
def site() -> Site:
    """Return the site, read once."""
    pages = {path.stem: _read(path.stem, path.read_text("utf-8")) for path in sorted(PAGES.glob("*.md"))}
    return Site(pages, tuple(_groups(pages[HOME])))


def _read(name: str, text: str) -> Page:
    tokens = _markdown().parse(text)
    title, found = name, list[Section]()
    heading, id_, said = "", "", list[str]()
    for token, following in pairwise([*tokens, tokens[-1]]):
        if token.type == "heading_open":
            found.append(Section(name, title, heading or title, id_, " ".join(said)))
            heading, id_ = _plain(following), anchor(following.content)
            title = heading if token.tag == "h1" else title
            token.attrSet("id", id_)
            said = []
        elif token.type == "inline" or token.type == "fence":
            said.append(_plain(token))
    found.append(Section(name, title, heading or title, id_, " ".join(said)))
    return Page(name, title, tokens, tuple(each for each in found if each.text))


def _plain(token: Token) -> str:
    children = token.children or ()
    return "".join(each.content or " " for each in children) if children else token.content


def _groups(home: Page) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Yield what the home lists: the links of each heading of the second degree."""
    title, links = "", list[tuple[str, str]]()
    for token, following in pairwise([*home.tokens, home.tokens[-1]]):
        if token.type == "heading_open" and token.tag == "h2":
            if links:
                yield title, tuple(links)
            title, links = _plain(following), []
        for each, label in pairwise((token.children or ()) if title else ()):
            target = str(each.attrGet("href") or "")
            if each.type == "link_open" and target.endswith(".md") and "/" not in target:
                links.append((target.removesuffix(".md"), label.content))
    if links:
        yield title, tuple(links)


@cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt  # when the first page is asked for

    return MarkdownIt("commonmark", {"html": False}).enable("table")


@cache
def _html(name: str, root: str) -> Markup:
    """Return a page's HTML; `root` leads from its address to the folder of all pages."""
    markdown = _markdown()
    out, tables = [], 0
    for token in site().pages[name].tokens:
        if token.type == "inline":
            out.append(_inline(token.children or [], root))
        elif token.type == "fence":
            code = f'<div class="copyable"><pre tabindex="0"><code>{escape(token.content)}</code></pre>'
            out.append(f'{code}<button type="button" data-copy hidden>Copy</button></div>\n')
        elif token.type == "table_open":
            tables += 1
            out.append(f'<div class="scroll" role="region" aria-label="Table {tables}" tabindex="0"><table>')
        elif token.type == "table_close":
            out.append("</table></div>")
        else:
            if token.attrs.pop("style", None) == "text-align:right":  # the policy takes no styles
                token.attrSet("class", "num")
            out.append(markdown.renderer.render([token], markdown.options, {}))
    return Markup("".join(out))  # noqa: S704 - the renderer escapes text


def _inline(children: Sequence[Token], root: str) -> str:
    from markdown_it.renderer import RendererHTML

    renderer, out, ends = RendererHTML(), [], list[str]()
    for each in children:
        if each.type == "link_open":
            href = _href(str(each.attrGet("href")), root)
            out.append(f'<a href="{escape(href)}">' if href else "<span>")
            ends.append("</a>" if href else "</span>")
        elif each.type == "link_close":
            out.append(ends.pop())
        elif each.type == "image":
            out.append(_image(str(each.attrGet("src")), each.content, root))
        else:
            out.append(renderer.renderInline([each], _markdown().options, {}))
    return "".join(out)


def _href(target: str, root: str) -> str:
    """Return where a link of the Markdown leads on the site; empty for a file that the site has not."""
    path, mark, fragment = target.partition("#")
    if "://" in target or not path:
        return target
    if path.startswith("/"):
        return f"{root}..{path}{mark}{fragment}"
    return f"{root}{path.removesuffix('.md')}{mark}{fragment}" if path.endswith(".md") and "/" not in path else ""


def _image(source: str, label: str, root: str) -> str:
    """Return an image; of one that is there light and dark both, of which the page shows one."""
    schemes = (("light", ".light."), ("dark", ".dark.")) if _LIGHT in source else (("", ""),)
    return "".join(
        f'<img class="only-{scheme}" src="{escape(root + source.replace(_LIGHT, ending))}" alt="{escape(label)}"'
        ' loading="lazy">'
        for scheme, ending in schemes
    )


def _shown(path: str, name: str, template: str, title: str, values: dict[str, Any]) -> str:
    """Return a page of the site, as it is seen from a path."""
    root = {2: "./", 3: "../"}.get(path.count("/"), "docs/")
    page = site().pages.get(name)
    given = {
        "root": root,
        "title": title,
        "here": name,
        "groups": site().groups,
        "contents": () if page is None else _contents(page),
        "static": lambda file: f"{root}../console/static/{assets()[file].name}",
        "typed": "",
        "reference": GROUPS,
        "body": "" if page is None else _html(name, root),
    }
    return templates().get_template(template).render({**given, **values})


def _contents(page: Page) -> list[tuple[str, str]]:
    """Return the headings of the second degree of a page."""
    return [
        (anchor(following.content), _plain(following))
        for token, following in pairwise(page.tokens)
        if token.type == "heading_open" and token.tag == "h2"
    ]


async def _answer(
    request: web.Request, name: str, title: str, template: str = "site_page.html", **values: Any
) -> web.StreamResponse:
    text = await asyncio.to_thread(_shown, _seen_from(request), name, template, title, values)
    return in_parts(text.encode(), _HTML, HEADERS | {"Vary": SHOWN_ON})


def _seen_from(request: web.Request) -> str:
    """Return the path of the page that shows an answer: where htmx puts it into another page, that one's."""
    path = urlsplit(request.headers.get(SHOWN_ON, "")).path
    return path[path.rindex(DOCS) :] if DOCS in path else request.path


async def _missing(request: web.Request) -> web.StreamResponse:
    answer = await _answer(request, "", "There is no such page", body=_MISSING)
    answer.set_status(404)
    return answer


async def get_docs(request: web.Request) -> web.StreamResponse:
    """Return the first page of the documentation."""
    return await _answer(request, HOME, "Documentation")


async def _page(request: web.Request) -> web.StreamResponse:
    name = request.match_info["page"]
    found = (await asyncio.to_thread(site)).pages.get(name)
    if found is None:
        return await _missing(request)
    return await _answer(request, name, found.title)


_MISSING: Final = Markup("<h1>There is no such page</h1><p>Search for it, or begin at the documentation's home.</p>")


async def _search(request: web.Request) -> web.StreamResponse:
    typed = request.query.get("q", "")[:MOST_TYPED]
    results = await asyncio.to_thread(lambda: site().find(typed))
    return await _answer(request, "search", "Search", "site_search.html", typed=typed, results=results)


async def _reference(request: web.Request) -> web.StreamResponse:
    group = request.match_info.get("group", "")
    described = request.config_dict[DESCRIBED]
    if group and group not in GROUPS:
        return await _missing(request)
    document = msgspec.json.decode(await asyncio.to_thread(described))
    title = GROUPS[group].title if group else "API reference"
    shown = await asyncio.to_thread(sections, document, group) if group else ""
    counts = {name: sum(group_of(path) == name for path in document["paths"]) for name in GROUPS}
    values = {"group": group, "shown": Markup(shown), "counts": counts}  # noqa: S704 - it escapes all text
    return await _answer(request, REFERENCE, title, "site_reference.html", **values)


async def _picture(request: web.Request) -> web.StreamResponse:
    path = PAGES / "console" / f"{request.match_info['name']}.png"
    try:
        body = await asyncio.to_thread(path.read_bytes)
    except OSError:
        raise web.HTTPNotFound from None
    return in_parts(body, "image/png", HEADERS | {"Cache-Control": "public, max-age=3600"})


def add_site(app: web.Application) -> None:
    """Add the pages below /docs."""
    app.router.add_get("/docs/search", _search)
    app.router.add_get("/docs/reference", _reference)
    app.router.add_get("/docs/reference/{group}", _reference)
    app.router.add_get(r"/docs/console/{name:[a-z0-9-]{1,80}\.(?:light|dark)}.png", _picture)
    app.router.add_get("/docs/{page:[a-z-]{1,40}}", _page)
