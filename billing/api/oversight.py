"""What operators look after, behind the admin key: refused requests, people; and which image runs, which is
open. And collection: its last runs, and whose the traffic is that exporters count; exports: how far each is, what the
other side does not take, and having that tried again.

Of people (/api/admin/users): who is let in, who is an operator, and who owns an organization that nobody looks after
any more. The audit log is /api/admin/audit for operators, /api/account/audit of an account for who has `audit:read`
there. /api/admin/margin: charges less costs; and /api/admin/providers/{provider}/bill: providers' bills compared with
the ledger.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from billing.api.operations import ExportOperations, MarginOperations, OversightOperations
from billing.api.requests import BadRequest, NotFound, Unavailable, encode_cursor, listing, moment, page_asked
from billing.api.route import Call, Table, rows, serves, wants_csv
from billing.audit import AuditFilter
from billing.errors import StoreError
from billing.identity.users import NEEDS_FACTOR
from billing.ledger.reports import MarginBy, Margins
from billing.money import NANO_PER_USD, format_usd
from billing.pages import Page, place_of
from billing.schemas.base import Listing, PageQuery
from billing.schemas.margin import (
    MARGIN_FIELDS,
    BillBody,
    BillQuery,
    BillShape,
    MarginGroupShape,
    MarginQuery,
    MarginShape,
    MarginsShape,
    margin_fields,
)
from billing.schemas.people import MemberShape, UserDetailShape, UserOrganizationShape, UserPatch, UserShape, UsersQuery
from billing.schemas.system import (
    AssignBody,
    AssignedShape,
    AuditQuery,
    AuditShape,
    ExportShape,
    FoundShape,
    HelloShape,
    ImageShape,
    NamesQuery,
    NamesShape,
    OperatorSettingsShape,
    OwnAuditQuery,
    OwnRefusedQuery,
    ParkedExportShape,
    ParkedExportsQuery,
    RefusedQuery,
    RefusedShape,
    RetriedShape,
    RetryExport,
    RunShape,
    SearchQuery,
    SubjectShape,
    SubjectsQuery,
)
from billing.search import MOST_FOUND

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from billing.collect.collector import Collector
    from billing.provider_bills.bills import Bills


_IMAGE: Final = re.compile(
    r"(?P<name>[^\s:@]+(?::\d+(?=/)[^\s:@]*)?):(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_COMMIT: Final = re.compile(r"sha-([0-9a-f]{40})")


@serves(OversightOperations.refusals)
async def list_refusals(call: Call, query: RefusedQuery) -> Listing[RefusedShape]:
    """List the last requests that were refused, newest first, on one page."""
    return await _refusals(call, query.limit, query.key_id, query.account_id, with_hint=True)


@serves(OversightOperations.refusal)
async def get_refusal(call: Call) -> RefusedShape:
    """Return a refused request by its x-request-id, as long as it is kept."""
    return await _refusal(call, None, with_hint=True)


@serves(OversightOperations.own_refusals)
async def list_own_refusals(call: Call, query: OwnRefusedQuery) -> Listing[RefusedShape]:
    """List the last requests of the account that were refused, newest first, on one page."""
    return await _refusals(call, query.limit, query.key_id, call.account_id, with_hint=False)


@serves(OversightOperations.own_refusal)
async def get_own_refusal(call: Call) -> RefusedShape:
    """Return a refused request of the account by its x-request-id, as long as it is kept; another's is not found."""
    return await _refusal(call, call.account_id, with_hint=False)


async def _refusals(
    call: Call, limit: int, key_id: str | None, account_id: str | None, *, with_hint: bool
) -> Listing[RefusedShape]:
    with _redis_needed():
        found = await call.services.refused.newest(limit, key_id=key_id, account_id=account_id)
    return listing(Page(tuple(found), None), lambda each: RefusedShape.of_refused(each, with_hint=with_hint))


async def _refusal(call: Call, account_id: str | None, *, with_hint: bool) -> RefusedShape:
    """Return the refusal that the path names; only an account's own if `account_id` is given."""
    request_id = call.id("request_id")
    with _redis_needed():
        found = await call.services.refused.find(request_id)
    if found is None or (account_id is not None and found.account_id != account_id):
        raise NotFound(f"No refusal of {request_id!r} is kept.")
    return RefusedShape.of_refused(found, with_hint=with_hint)


@serves(OversightOperations.search)
async def search(call: Call, query: SearchQuery) -> Listing[FoundShape]:
    """Find accounts, people, keys, requests, orders and models by name, mail or id, or by how these begin: the best
    matches of each kind, on one page."""
    services, found, typed = call.services, [], (query.q or "").strip()
    if query.kind != "model":
        found += [FoundShape.of(each) for each in await services.search.find(typed, query.kind)]
    if query.kind in (None, "model"):
        models = (each for each in services.models(None) if typed and typed.lower() in each.id.lower())
        found += [
            FoundShape(kind="model", id=each.id, name=each.id, about=each.owned_by)
            for each in islice(models, MOST_FOUND)
        ]
    return Listing(data=found, next_cursor=None)


@serves(OversightOperations.names)
async def names(call: Call, query: NamesQuery) -> NamesShape:
    """Return what accounts, keys, people and organizations are called, by their ids."""
    return NamesShape(names=await call.services.audit.names((query.ids or "").split(",")))


@serves(OversightOperations.operator_settings)
async def get_operator_settings(call: Call) -> OperatorSettingsShape:
    """Return the settings that operators' commands go by."""
    services = call.services
    confirm_usd = format_usd(services.grant_confirm_usd * NANO_PER_USD)
    return OperatorSettingsShape(grant_confirm_usd=confirm_usd, customers_see=services.customers_see)


@contextmanager
def _redis_needed() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise Unavailable("Redis, which has the refusals, is temporarily unavailable; try again.") from error


@serves(OversightOperations.ping)
async def ping(call: Call) -> ImageShape:
    """Return which image runs, from the variable IMAGE; what can't be read from it is empty."""
    return image_identity(call.services.image)


@serves(OversightOperations.hello)
async def hello(call: Call) -> HelloShape:
    """Answer. Claude Code asks by HEAD whether a server is there before it begins."""
    return HelloShape()


def image_identity(image: str) -> ImageShape:
    """Return what an image's name says: `registry/name:sha-<40 hex>` gives all four fields; another tag gives no commit
    and is the version itself; all are empty when the name is missing or malformed."""
    match = _IMAGE.fullmatch(image)
    if match is None:
        return ImageShape()
    tag = match["tag"]
    sha = _COMMIT.fullmatch(tag)
    commit = sha[1] if sha else ""
    return ImageShape(image=image, tag=tag, commit=commit, version=commit or tag)


@serves(OversightOperations.audit)
async def list_audit(call: Call, query: AuditQuery) -> Listing[AuditShape]:
    """List changes, newest first."""
    only = _audit_filter(query, account_id=query.account_id, user_id=query.user_id)
    return listing(await call.services.audit.page(only, *page_asked(query)), AuditShape.of_entry)


def _audit_filter(query: OwnAuditQuery, **more: Any) -> AuditFilter:
    since, until = moment("since", query.since), moment("until", query.until)
    return AuditFilter(actor=query.actor, action=query.action, since=since, until=until, **more)


@serves(OversightOperations.own_audit)
async def list_own_audit(call: Call, query: OwnAuditQuery) -> Listing[AuditShape]:
    """List what was done to the account, newest first, and for a person what was about them: their sign-ins, failed
    ones too. Operators' addresses are left out."""
    caller = call.caller
    about = caller.id if caller.kind == "person" else None
    only = _audit_filter(query, account_id=call.account_id, own=True, about=about)
    page = await call.services.audit.page(only, *page_asked(query))
    return listing(page, lambda entry: AuditShape.of_entry(entry, with_cost=call.sees_cost))


@serves(OversightOperations.users)
async def list_users(call: Call, query: UsersQuery) -> Listing[UserShape]:
    """List people, newest first."""
    email = None if query.email is None else query.email.strip().lower()
    page = await call.services.users.page(*page_asked(query), status=query.status, email=email)
    return listing(page, UserShape.of)


@serves(OversightOperations.user)
async def get_user(call: Call) -> UserDetailShape:
    """Return a user, and the organizations that they belong to."""
    return await _detail(call, call.id("user_id"))


@serves(OversightOperations.update_user)
async def update_user(call: Call, body: UserPatch) -> UserDetailShape:
    """Let a user in or out, or make them an operator or none. Who is disabled is signed out everywhere at once, and is
    no operator any more; API keys stay, unless they are to be revoked, too. `"second_factor": false` removes the app of
    who has lost it, with the recovery codes: make sure who asks."""
    user_id, users = call.id("user_id"), call.services.users
    before = await users.get(user_id)
    if body.status == "disabled" and body.operator is True:
        raise BadRequest("Who is disabled can't be an operator.", "operator")
    if body.operator is True and not before.second_factor:
        raise BadRequest(NEEDS_FACTOR, "operator")  # before anything is changed
    if body.status == "disabled":
        await users.disable(user_id, call.actor)
    elif body.status == "active":
        await (users.enable if before.status == "disabled" else users.approve)(user_id, call.actor)
    if isinstance(body.operator, bool):
        await users.set_operator(user_id, body.operator, call.actor)
    if body.second_factor is False:
        await users.remove_factor(user_id, call.actor)
    if body.revoke_keys:
        await call.services.credentials.revoke_keys(user_id, call.actor)
    return await _detail(call, user_id)


@serves(OversightOperations.appoint_owner)
async def appoint_owner(call: Call) -> MemberShape:
    """Make a user an owner of an organization, whether they are a member or not: where its only owner was disabled,
    nobody else can."""
    return MemberShape.of(await call.services.members.appoint(call.id("org_id"), call.id("user_id"), call.actor))


async def _detail(call: Call, user_id: str) -> UserDetailShape:
    users = call.services.users
    own = [UserOrganizationShape.of(each) for each in await users.organizations(user_id)]
    return UserDetailShape.of(await users.get(user_id), organizations=own)


def _collector(call: Call) -> Collector:
    if call.services.collector is None:
        raise Unavailable("This gateway does not collect; ask another one.")
    return call.services.collector


@serves(OversightOperations.collect_runs)
async def list_runs(call: Call, query: PageQuery) -> Listing[RunShape]:
    """List the last runs of collection, newest first."""
    return listing(await _collector(call).runs(*page_asked(query)), RunShape.of)


@serves(OversightOperations.collect_subjects)
async def list_subjects(call: Call, query: SubjectsQuery) -> Listing[SubjectShape]:
    """List whom exporters count, those seen last first."""
    page = await _collector(call).subjects.page(*page_asked(query), parked=query.state == "parked")
    return listing(page, SubjectShape.of)


@serves(OversightOperations.assign_subject)
async def assign_subject(call: Call, body: AssignBody) -> AssignedShape:
    """Give those that an exporter counts under a uuid, or with an e-mail address, this account. Of those that had none,
    what was counted so far is charged with the next run; those that had another are moved from the next minute on."""
    subjects, now = _collector(call).subjects, datetime.fromtimestamp(call.services.clock(), UTC)
    assigned, granted = await subjects.assign(body.subject, body.account_id, now, call.actor)
    for account_id in granted:
        await call.services.effects.balance_changed(account_id)
    return AssignedShape(assigned=assigned)


@serves(ExportOperations.exports)
async def list_exports(call: Call) -> Listing[ExportShape]:
    """List the exports that there ever were, and how far each is."""
    standings = await call.services.exports.standings()
    return Listing(data=[ExportShape.of(each, lag_seconds=int(each.lag_s)) for each in standings], next_cursor=None)


@serves(ExportOperations.parked_exports)
async def list_parked_exports(call: Call, query: ParkedExportsQuery) -> Listing[ParkedExportShape]:
    """List what the other sides do not take, newest first, with the reason."""
    page = await call.services.exports.dead_letters(*page_asked(query), export=query.export)
    return listing(page, ParkedExportShape.of)


@serves(ExportOperations.retry_exports)
async def retry_exports(call: Call, body: RetryExport) -> RetriedShape:
    """Send parked items again: one, or all of an export. Items that are refused again stay parked."""
    return RetriedShape(retried=await call.services.exports.again(body.export, body.item, call.actor))


WEEK_DAYS: Final = 7


@serves(MarginOperations.margin)
async def get_margin(call: Call, query: MarginQuery) -> MarginsShape | Table:
    """Return what was charged less what it cost, of days of UTC, by account, model, provider or day. As CSV all groups,
    without a limit."""
    since, until = days_asked(query.since, query.until, call.services.clock())
    limit, after = page_asked(query)
    first = place_of(after)
    asked, margins = (begin_of(since), begin_of(until), MarginBy[query.by]), call.services.reports.margins
    if wants_csv(call.request):
        return Table("margin", _table(query.by, await margins.read(*asked)))
    found = await margins.read(*asked, first, limit)
    return MarginsShape(
        since=since.isoformat(),
        until=until.isoformat(),
        by=query.by,
        total=MarginShape(**margin_fields(found.total)),
        data=[MarginGroupShape(group=name, **margin_fields(margin)) for name, margin in found.groups],
        next_cursor=encode_cursor(str(first + limit)) if found.more else None,
    )


async def _table(by: str, found: Margins) -> AsyncIterator[bytes]:
    yield rows([(by, *MARGIN_FIELDS)])
    yield rows((name, *margin_fields(margin).values()) for name, margin in found.groups)


def days_asked(since: str | None, until: str | None, now_s: float, *, whole: bool = False) -> tuple[date, date]:
    """Return from which day on and before which one: without them this month's first, and tomorrow, or with `whole`
    the week before today."""
    today = datetime.fromtimestamp(now_s, UTC).date()
    ends = today + timedelta(days=0 if whole else 1) if until is None else _day("until", until)
    usual = ends - timedelta(days=WEEK_DAYS) if whole else today.replace(day=1)
    begins = usual if since is None else _day("since", since)
    if begins > ends:
        raise BadRequest("since must not be after until.", "since")
    return begins, ends


def _day(param: str, given: str) -> date:
    try:
        day = date.fromisoformat(given)
    except ValueError as error:
        raise BadRequest(f"{param} must be a day such as 2027-01-31.", param) from error
    if not 2000 <= day.year < 2200:
        raise BadRequest(f"{param} must be a day from 2000 to 2199.", param)
    return day


def begin_of(day: date) -> datetime:
    """Return where a day of UTC begins."""
    return datetime.combine(day, time(), UTC)


@serves(MarginOperations.bill)
async def get_bill(call: Call, query: BillQuery) -> BillShape:
    """Return a provider's bill beside the ledger, from the bill that was stored last."""
    bills, (since, until) = _bills(call), days_asked(query.since, query.until, call.services.clock(), whole=True)
    return BillShape.of_bill(await bills.compared(call.id("provider"), query.source, since, until))


@serves(MarginOperations.reconcile_bill)
async def reconcile_bill(call: Call, body: BillBody) -> BillShape:
    """Fetch a provider's bill, or take its invoice, keep it and compare it with the ledger."""
    bills, (since, until) = _bills(call), _days_of(body, call)
    provider = call.id("provider")
    if body.invoice is None:
        return BillShape.of_bill(await bills.fetched(provider, since, until))
    names = {} if body.columns is UNSET else body.columns
    return BillShape.of_bill(await bills.given(provider, since, until, body.invoice, names))


def _days_of(body: BillBody, call: Call) -> tuple[date, date]:
    until = None if body.until is UNSET else body.until
    return days_asked(body.since, until, call.services.clock(), whole=True)


def _bills(call: Call) -> Bills:
    if call.services.bills is None:
        raise NotFound("This gateway has no providers.")
    return call.services.bills
