"""Pages: one declaration of a page and of its forms, and what a handler is given and returns.

A handler is an async function of a `Visit`. It returns a `View` (a template and its values), a table as CSV, or a whole
response, such as `Visit.see`, which leads to another page after a change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from multidict import MultiDict, MultiDictProxy

from billing.accounts.accounts import Account
from billing.api.operation import JSON
from billing.api.requests import query_of, shaped
from billing.api.route import CSV, Call, wants_csv
from billing.api.services import Services
from billing.identity.providers import CONSOLE
from billing.identity.users import OwnOrganization
from billing.principals import Caller
from billing.times import DEFAULT_ZONE, TimeError, zone_of

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from billing.api.route import Table

# Of a table on a page: each takes the event loop's time, some 0.1 ms. A table as CSV has all.
MOST_ROWS: Final = 200

T = TypeVar("T")
Q = TypeVar("Q", bound=msgspec.Struct)
# The parameter by which a page shows the result of an action on the page before: a name of `NOTICES`.
NOTICE: Final = "notice"
# What a page may say at its top. A module of pages adds its own with `NOTICES.update`.
NOTICES: Final[dict[str, str]] = {
    "signed-out": "You are signed out.",
    "password-set": "Your password is set. Sign in with it.",
    "saved": "Saved.",
    "switched": "These are the pages of this organization now.",
    "sign-in-failed": "The provider did not sign you in: try again.",
}

CUSTOMER: Final = (
    ("Overview", "/"),
    ("Usage", "/usage"),
    ("Requests", "/requests"),
    ("Keys", "/keys"),
    ("Credit", "/credit"),
    ("Plan", "/plan"),
    ("Members", "/members"),
    ("Alerts", "/alerts"),
    ("Security", "/security"),
    ("Quickstart", "/quickstart"),
    ("Models", "/models"),
)
OPERATOR: Final = (
    ("Home", "/operator"),
    ("Accounts", "/operator/accounts"),
    ("Keys", "/operator/keys"),
    ("Requests", "/operator/requests"),
    ("Payments", "/operator/payments"),
    ("Margin", "/operator/margin"),
    ("Prices", "/operator/prices"),
    ("Plans", "/operator/plans"),
    ("Coupons", "/operator/coupons"),
    ("Providers", "/operator/providers"),
    ("People", "/operator/people"),
    ("Audit", "/operator/audit"),
    ("Jobs", "/operator/jobs"),
    ("Exporters", "/operator/exporters"),
    ("Exports", "/operator/exports"),
    ("Webhooks", "/operator/webhooks"),
)
# The links of each section, and the page that each leads to. One is shown to who may see its page, where that is.
SECTIONS: Final = (("Organization", CUSTOMER), ("Operator", OPERATOR))
# What the first section is called for who belongs to no organization: the pages that are left are about oneself.
ALONE: Final = "You"


class Who(Enum):
    """Who may see a page: anyone; anyone who is signed in; a person; a person in an organization; an operator."""

    anyone = "anyone"
    signed_in = "signed in"
    person = "person"
    customer = "customer"
    operator = "operator"


@dataclass(frozen=True, slots=True)
class View:
    """A template and its values."""

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


Handler = Callable[["Visit"], Awaitable["View | Table | web.StreamResponse"]]


@dataclass(frozen=True, slots=True)
class Page:
    """One page, or what a form of one does: `path` is that below /console. With `scope` it is for who has it in their
    organization, with `whole` for sessions without narrowed rights. What a POST is refused with is said on the page
    that `again` shows, where there is one, with all that was typed. With `csv` the page is a table, too, where the
    address says `format=csv`."""

    method: str
    path: str
    handler: Handler
    who: Who = Who.customer
    scope: str | None = None
    again: Handler | None = None
    whole: bool = False
    csv: bool = False

    def admits(self, caller: Caller) -> bool:
        """Return whether somebody may see it."""
        if self.who is Who.anyone or (self.who is Who.signed_in and caller.kind != "nobody"):
            return True
        if self.who is Who.operator:
            return is_operator(caller)
        if caller.kind != "person" or (self.whole and not caller.whole):
            return False
        if self.who is Who.customer and caller.account_id is None:
            return False
        return self.scope is None or self.scope in caller.scopes


def page(
    path: str,
    show: Handler,
    *forms: tuple[str, Handler],
    who: Who = Who.customer,
    scope: str | None = None,
    changes: str | None = None,
) -> tuple[Page, ...]:
    """Return a page and its forms, each by its path below the page's: what is refused is said on the page. `changes` is
    the scope of the forms, where that is another one."""
    sent = (Page("POST", path + below, handler, who, changes or scope, again=show) for below, handler in forms)
    return Page("GET", path, show, who, scope), *sent


def does(
    call: Callable[..., Awaitable[object]], to: str, notice: str, body: Callable[[Visit], object] | None = None
) -> Handler:
    """Return the handler of a form that makes one call of the API, with a body where it needs one, and leads to a page
    that says so: `notice` is a name of `NOTICES`, and `to` may have names of the path in braces."""

    async def handler(visit: Visit) -> web.Response:
        await (call(visit.call) if body is None else call(visit.call, body(visit)))
        return visit.see(to.format_map(visit.request.match_info), notice)

    return handler


def filled(model: type[T], **fields: str | None) -> Callable[[Visit], T]:
    """Return what makes a shape of the API of a form: of each field what was typed, else what is given here; None: it
    is left out. It raises `BadRequest`."""
    return lambda visit: visit.body(
        model, **{name: visit.field(name) or otherwise for name, otherwise in fields.items()}
    )


def shows(template: str, **values: object) -> Handler:
    """Return the handler of a page that is the same for everybody."""

    async def handler(visit: Visit) -> View:
        return View(template, values)

    return handler


def is_operator(caller: Caller) -> bool:
    """Return whether somebody is an operator, by the admin key or as a person."""
    return caller.kind == "admin" or caller.operator


@dataclass(slots=True)
class Visit:
    """A request for a page, and who makes it. `account` is that of the person's organization; `form` what was sent,
    `problem` why it was refused, and `wrong` the field that this is about. `seeing`: an operator looks at it as a
    customer. `own_zone` is the person's time zone,
    `badges` what stands beside links of the navigation, by their paths."""

    request: web.Request
    services: Services
    page: Page
    caller: Caller
    account: Account | None = None
    organizations: list[OwnOrganization] = field(default_factory=list)
    form: MultiDictProxy[str] = field(default_factory=lambda: MultiDictProxy(MultiDict()))
    problem: str | None = None
    wrong: str | None = None
    own_zone: str | None = None
    seeing: bool = False
    badges: Mapping[str, str] = field(default_factory=dict)

    @property
    def call(self) -> Call:
        """Return the call that a handler of the API is given: what it does is audited the same. A page that is asked
        for with `format=csv` has the handler's table."""
        request, wanted = self.request, CSV if self.wants_csv else JSON
        if self.wants_csv or wants_csv(request):
            request = request.clone(headers={**request.headers, "Accept": wanted})
        return Call(request, self.services, self.caller)

    @property
    def wants_csv(self) -> bool:
        """Return whether the page is asked for as a table."""
        return self.page.csv and self.request.query.get("format") == "csv"

    @property
    def signed_in(self) -> bool:
        """Return whether somebody is."""
        return self.caller.kind != "nobody"

    @property
    def operator(self) -> bool:
        """Return whether the visitor is an operator."""
        return is_operator(self.caller)

    @property
    def operating(self) -> bool:
        """Return whether the page is about all accounts, and not about the visitor's own organization."""
        return self.page.who is Who.operator

    @property
    def account_id(self) -> str:
        """Return whose data the page is about. Raises `InsufficientScope`."""
        return self.call.account_id

    @property
    def zone(self) -> ZoneInfo:
        """Return the time zone that times are shown in: the one of the address, else the person's own,
        else the account's, else UTC."""
        own = zone_of(self.own_zone or (self.account.tz if self.account is not None else None) or DEFAULT_ZONE)
        try:
            return zone_of(self.request.query.get("tz") or own.key)
        except TimeError:  # which the page that takes it refuses
            return own

    @property
    def now(self) -> datetime:
        """Return the time, in UTC."""
        return datetime.fromtimestamp(self.services.clock(), UTC)

    @property
    def path(self) -> str:
        """Return the page's own path, below /console."""
        return self.request.path.removeprefix(CONSOLE) or "/"

    @property
    def root(self) -> str:
        """Return how one gets from this page to the first one: links are relative, so that they work below any path
        that a proxy takes off."""
        return "../" * (self.path.count("/") - 1) or "./"

    def url(self, path: str, /, **query: object) -> str:
        """Return the address of a page, by its path below /console; parameters that are None or empty are left out."""
        asked = urlencode({name: value for name, value in query.items() if value not in (None, "")})
        return f"{self.root}{path.removeprefix('/')}{'?' if asked else ''}{asked}"

    def here(self, **query: object) -> str:
        """Return the address of this page with some parameters changed."""
        asked = {name: value for name, value in self.request.query.items() if name != NOTICE}
        return self.url(self.path, **{**asked, **query})

    @property
    def next(self) -> str:
        """Return this page as the parameter `next` of a sign-in has it."""
        asked = self.request.query_string
        return f"{self.path}?{asked}" if asked else self.path

    def see(self, path: str, /, notice: str | None = None, **query: object) -> web.Response:
        """Return what leads to another page, which says that something was done: `notice` is a name of `NOTICES`."""
        return web.Response(status=303, headers={"Location": self.url(path, **{**query, NOTICE: notice})})

    def typed(self, name: str, otherwise: str = "") -> str:
        """Return what was typed into a field of the form, which is shown again where it was refused."""
        return self.form.get(name, otherwise)

    def query(self, model: type[Q], **fixed: str) -> Q:
        """Return the query string as a shape of the API; empty fields are left out, and a page has at most `MOST_ROWS`
        rows. Raises `BadRequest`."""
        return self.query_of({name: value for name, value in self.request.query.items() if value}, model, **fixed)

    def query_of(self, given: Mapping[str, str], model: type[Q], **fixed: str) -> Q:
        """Return parameters of one's own as a shape of the API, with as many rows as a page has. Raises
        `BadRequest`."""
        given = dict(given)
        if given.get("limit", "").isdecimal() and not self.wants_csv:
            given["limit"] = str(min(int(given["limit"][:9]), MOST_ROWS))
        return query_of({**given, **fixed}, model)

    def body(self, model: type[T], /, **fields: object) -> T:
        """Return fields of the form, already of their types, as a shape of the API; those that are None are left out.
        Raises `BadRequest`."""
        return shaped({name: value for name, value in fields.items() if value is not None}, model)

    def field(self, name: str) -> str | None:
        """Return what was typed into a field, without space around it; None where that is nothing."""
        return self.form.get(name, "").strip() or None

    def may(self, scope: str) -> bool:
        """Return whether the visitor has a right: what needs it is not shown to who has not."""
        return scope in self.caller.scopes


# Keys and members that one chooses from on a page, the newest ones. Members beyond them are shown by id.
NAMED: Final = 200


async def key_names(visit: Visit, key_ids: Iterable[str | None] | None = None) -> dict[str, str]:
    """Return what keys of the account are called, by their ids: these, or its newest ones to choose from."""
    if key_ids is not None:
        wanted = {each for each in key_ids if each is not None}
        return await visit.services.keys.names(visit.account_id, wanted) if wanted else {}
    keys = await visit.services.keys.page(visit.account_id, NAMED)
    return {each.id: each.name for each in keys.items}


async def member_names(visit: Visit) -> dict[str, str]:
    """Return the addresses of the organization's members, by their ids."""
    if visit.caller.org_id is None:
        return {}
    members = await visit.services.members.page(visit.caller.org_id, NAMED)
    return {each.user_id: each.email for each in members.items}
