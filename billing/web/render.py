"""From a view to an answer: templates, what they may use, and files that browsers keep.

Templates escape all text and refuse names that nobody has given. Files have the hash of their content in their name,
so that a browser may keep them for ever and asks for others after an upgrade. All of it is read once.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from html import unescape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from markupsafe import Markup, escape
from msgspec import json

from billing.amounts import digits, nano_of, usd_text
from billing.money import format_usd, parse_usd
from billing.permissions import RANK
from billing.times import TimeError, parse_rfc3339, rfc3339
from billing.traffic.counts import BOUNDS_MS
from billing.web.pages import ALONE, NOTICE, NOTICES, SECTIONS, Page, View, Visit, Who

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from jinja2 import Environment

    from billing.web.lists import Listed

STATIC: Final = "static"
LASTING: Final = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
_TYPES: Final = {"css": "text/css", "js": "text/javascript"}
_HASH: Final = 16
# Of a column that need not be wider for it.
LONGEST_WORD: Final = 20
# Where browsers break lines by themselves.
_BREAKS: Final = re.compile(r"[\s/-]+")
_TAG: Final = re.compile(r"<[^>]*>")
# What messages of the API have beside words: an address, a piece of code, a time.
_MARKED: Final = re.compile(
    r"(?P<url>https?://[^\s<>\"]*[^\s<>\".,:;)])|`(?P<code>[^`]+)`|(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)",
    re.ASCII,
)
# Last characters of an id that tell it from others on a page.
SHORT_ID: Final = 6
_ULID: Final = 26


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is served: its name with the hash, its bytes, and those compressed."""

    name: str
    type: str
    body: bytes
    coded: bytes

    async def serve(self, request: web.Request) -> web.Response:
        """Return the file, compressed for who takes that."""
        response = web.Response(body=self.body, content_type=self.type, charset="utf-8", headers=LASTING)
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            response.body = self.coded
            response.headers["Content-Encoding"] = "gzip"
        return response


@cache
def assets() -> dict[str, Asset]:
    """Return the files that pages load, by their plain names."""
    found: dict[str, Asset] = {}
    for file in files("billing.web").joinpath(STATIC).iterdir():
        stem, _, ending = file.name.rpartition(".")
        if ending in _TYPES:
            body = file.read_bytes()
            name = f"{stem}.{sha256(body).hexdigest()[:_HASH]}.{ending}"
            found[file.name] = Asset(name, _TYPES[ending], body, gzip.compress(body, mtime=0))
    return found


@cache
def templates() -> Environment:
    """Return the templates, with the filters that they all use."""
    from jinja2 import Environment as Templates
    from jinja2 import PackageLoader, StrictUndefined

    environment = Templates(
        loader=PackageLoader("billing.web"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(amount=amount, money=money, count=count, day=day, words=words)
    environment.filters.update(digits=digits, digits_of=digits_of, brief=brief, changes=changes)
    environment.filters["capitalize_first"] = lambda text: f"{text[:1].upper()}{text[1:]}"
    environment.filters["short_id"] = short_id
    environment.filters["fact"] = lambda name: words(name).replace(" usd", " (USD)").removesuffix(" at")
    environment.filters["percent"] = percent
    environment.filters["used_part"] = used_part
    environment.filters["as_json"] = as_json
    environment.filters["zip_same"] = lambda names: [(name, words(name)) for name in names]
    environment.globals.update(roles=tuple(sorted(RANK, key=RANK.__getitem__)))
    return environment


@cache
def _compiled() -> bool:
    for name in templates().list_templates(extensions=["html"]):
        templates().get_template(name)
    return True


async def compile_templates() -> None:
    """Make the templates ready, once and beside the event loop: each takes some 5 ms, and most processes are never
    asked for a page."""
    if not _compiled.cache_info().currsize:
        await asyncio.to_thread(_compiled)


def render(visit: Visit, view: View, pages: Mapping[str, Page]) -> web.Response:
    """Return a view as HTML; `pages` are those that there are, by their paths."""
    notice = NOTICES.get(visit.request.query.get(NOTICE, ""))
    text = (
        templates()
        .get_template(view.template)
        .render(
            {
                "visit": visit,
                "zone": visit.zone,
                "notice": notice,
                "names": {},
                "sections": _sections(visit, pages),
                "static": lambda name: f"{visit.root}{STATIC}/{assets()[name].name}",
                "when": partial(when, zone=visit.zone),
                "marked": partial(marked, zone=visit.zone, own=_own_urls(visit)),
                "plan_called": lambda plan_id: _plan_called(visit, plan_id),
                **view.values,
            }
        )
    )
    return web.Response(text=text, content_type="text/html", status=view.status)


def _plan_called(visit: Visit, plan_id: str) -> str:
    """Return what people call a plan; one that is no longer there has its id alone."""
    plan = visit.services.plans.get(plan_id)
    return f"{plan_id} plan" if plan is None else f"{plan.name} plan"


def _sections(visit: Visit, pages: Mapping[str, Page]) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """Return the navigation: of each section that somebody has, the pages that they may see, and which this is of."""
    seen = [
        (title, [(label, path) for label, path in links if path in pages and _led(pages[path], visit)])
        for title, links in (SECTIONS if visit.signed_in else ())
    ]
    within = [path for _, links in seen for _, path in links if f"{visit.path}/".startswith(f"{path.rstrip('/')}/")]
    here = max(within, key=len, default="")
    own = next((each.name for each in visit.organizations if each.id == visit.caller.org_id), SECTIONS[0][0])
    called = {SECTIONS[0][0]: ALONE if visit.account is None else own}
    return [(called.get(title, title), [(*link, link[1] == here) for link in links]) for title, links in seen if links]


def _led(page: Page, visit: Visit) -> bool:
    """Return whether somebody is led to a page: the first one is about an organization, where there is one."""
    if visit.seeing and page.who is Who.person:  # pages about oneself, which an operator has as themself
        return False
    return page.admits(visit.caller) and (page.path != "/" or visit.account is not None or not visit.operator)


def digits_of(table: Listed) -> dict[str, int]:
    """Return how many digits the amounts of each of a list's columns have after their points."""
    return {
        column.name: digits(column.value(row) for row in table.rows)
        for column in table.columns
        if column.kind == "money"
    }


def money(amount: str | int | None, least: int | None = None) -> Markup:
    """Return an amount of the API, a decimal string of USD, or nano-USD; the exact one is its value. `least` are the
    digits of its column."""
    if amount is None:
        return Markup("–")
    nano = nano_of(amount)
    exact, text = amount if isinstance(amount, str) else format_usd(nano), usd_text(nano, least)
    return Markup(f'<data class="usd" value="{exact}" title="{exact} USD">{text}</data>')  # noqa: S704 - digits alone


def count(number: int | None) -> Markup:
    """Return a whole number with its thousands apart; the plain one is its value."""
    if number is None:
        return Markup("–")
    return Markup(f'<data value="{number:d}">{number:,d}</data>')  # noqa: S704 - digits alone


def percent(hundredths: int) -> str:
    """Return a place across a chart as CSS has it."""
    return f"{hundredths // 100}.{hundredths % 100:02}%"


def amount(limit: int | str) -> Markup:
    """Return what a quota counts: a number, or money where that is a decimal string."""
    return count(limit) if isinstance(limit, int) else money(limit)


def used_part(window: Any) -> int | None:
    """Return how much of a quota is used, in percent; None where it allows nothing."""
    used, limit = (each if isinstance(each, int) else parse_usd(each) for each in (window.used, window.limit))
    return min(100, used * 100 // limit) if limit else None


def when(at: str | datetime | None, zone: ZoneInfo) -> Markup:
    """Return a time in a zone, and in UTC where one looks closer."""
    if at is None:
        return Markup("–")
    moment = parse_rfc3339(at) if isinstance(at, str) else at
    utc, local = f"{moment:%Y-%m-%d %H:%M:%S}", f"{moment.astimezone(zone):<span>%Y-%m-%d</span> <span>%H:%M:%S</span>}"
    text = f'<time datetime="{rfc3339(moment)}" title="{utc} UTC">{local}</time>'
    return Markup(text)  # noqa: S704 - digits alone


def _own_urls(visit: Visit) -> list[str]:
    """Return the addresses that messages of this gateway lead to: its own pages, and those of whoever runs it."""
    services = visit.services
    known = (services.browsers.rules.url, services.setup_url, services.operator_url, services.keys_url)
    return [url.rstrip("/") for url in known if url]


def _is_own(url: str, own: Iterable[str]) -> bool:
    """Return whether an address is one of some, or below one: what only begins alike may be on another host."""
    return any(url == each or url.startswith((f"{each}/", f"{each}?", f"{each}#")) for each in own)


def marked(text: str, zone: ZoneInfo, own: Iterable[str]) -> Markup:
    """Return a message of the API with its code as code, its times in a zone, and as links those addresses that are
    the gateway's `own`: messages quote what clients send, which may lead anywhere."""
    parts, at = [], 0
    for found in _MARKED.finditer(text):
        parts.append(escape(text[at : found.start()]))
        at = found.end()
        match found.lastgroup:
            case "url" if not _is_own(found["url"], own):
                parts.append(escape(found["url"]))
            case "url":
                parts.append(Markup('<a href="{0}">{0}</a>').format(found["url"]))
            case "code":
                parts.append(Markup('<code class="said">{}</code>').format(found["code"]))
            case _:
                parts.append(_time(found["time"], zone))
    return Markup("").join((*parts, escape(text[at:])))


def _time(text: str, zone: ZoneInfo) -> Markup:
    """Return what looks like a time as one, or as it is where there is no such time: a message may quote anything."""
    try:
        return when(text, zone)
    except (TimeError, OverflowError):
        return escape(text)


def day(at: str | datetime, zone: ZoneInfo) -> str:
    """Return the day of a time in a zone."""
    moment = parse_rfc3339(at) if isinstance(at, str) else at
    return f"{moment.astimezone(zone):%Y-%m-%d}"


def as_json(value: Any) -> str:
    """Return a value of the API as JSON."""
    return json.encode(value).decode()


def brief(value: Any) -> bool:
    """Return whether a text has only words that fit a narrow column: those are never broken, longer ones anywhere."""
    text = unescape(_TAG.sub("", value)) if isinstance(value, Markup) else str(value)
    return len(text) <= LONGEST_WORD or max(map(len, _BREAKS.split(text))) <= LONGEST_WORD


def changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """Return the fields that a row of the audit log says were changed, with what each was and is; empty: none."""
    was, now = before or {}, after or {}
    return [
        (words(name), _said(was.get(name)), _said(now.get(name)))
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else value if isinstance(value, str) else as_json(value)


def short_id(value: str) -> str:
    """Return the beginning and the end of an id: `acc_…PCJ4N2`. What is none stays as it is."""
    prefix, number = value[:-_ULID], value[-_ULID:]
    return f"{prefix}…{value[-SHORT_ID:]}" if len(number) == _ULID and number.isalnum() and number.isupper() else value


def words(name: Any) -> str:
    """Return a name of the API as words: `past_due` as "past due"."""
    return str(name).replace("_", " ")


def seconds_text(ms: int | None) -> str:
    """Return a time as people read it."""
    if ms is None:
        return ""
    return f"{ms} ms" if ms < 1_000 else f"{ms // 1_000}.{ms % 1_000 // 100} s"


def time_text(ms: int | None) -> str:
    """Return a time of a histogram as people read it."""
    return f"over {ms // 1_000} s" if ms is not None and ms >= BOUNDS_MS[-1] else seconds_text(ms)
