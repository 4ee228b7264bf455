"""The page at /docs: `gateway/pages/api.md`, which is `docs/api.md` of the repository, as HTML. It is part of what is
installed, so that it is there from a wheel, too."""

import re
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Final

from aiohttp import web
from markdown_it import MarkdownIt

PAGE: Final = Path(__file__).parent.parent / "pages" / "api.md"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_NO_LETTER: Final = re.compile(r"[^\w]+")
_STYLE: Final = (
    "body{max-width:70rem;margin:2rem auto;padding:0 1rem;font:1rem/1.5 system-ui,sans-serif}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "th,td{border:1px solid #8886;padding:.3rem .6rem;text-align:left;vertical-align:top}"
    "pre{overflow-x:auto;padding:.8rem;background:#8881}code{font-size:.9em}:root{color-scheme:light dark}"
)


def anchor(heading: str) -> str:
    """What a link to a heading names: its letters and digits in lower case, joined by hyphens."""
    return _NO_LETTER.sub("-", heading.lower()).strip("-")


@cache
def html() -> str:
    """The whole page. HTML in the Markdown stays text."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(PAGE.read_text("utf-8"))
    title = ""
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            title = title or following.content
            token.attrSet("id", anchor(following.content))
    body = markdown.renderer.render(tokens, markdown.options, {})
    head = f'<meta charset="utf-8"><title>Metergate: {escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'


async def docs(request: web.Request) -> web.StreamResponse:
    """GET /docs: every endpoint, header and error."""
    return web.Response(text=html(), content_type="text/html", charset="utf-8", headers=HEADERS)
