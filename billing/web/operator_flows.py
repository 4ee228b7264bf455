"""Operators: jobs, exporters and whom they count, exports, and webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from billing.api.oversight import (
    assign_subject,
    list_exports,
    list_parked_exports,
    list_runs,
    list_subjects,
    retry_exports,
)
from billing.api.requests import Unavailable, encode_cursor, page_asked
from billing.schemas.base import PageQuery
from billing.schemas.system import AssignBody, JobShape, ParkedExportsQuery, RetryExport, SubjectsQuery
from billing.schemas.webhooks import DeliveryShape, EndpointShape
from billing.web.lists import Act, Column, Field, Figure, Form, Listed, detailed, listed, once
from billing.web.pages import NOTICES, Page, View, Visit, Who

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from billing.schemas.system import RunShape

NOTICES.update(
    {
        "collected": "Exporters were asked: the run is below.",
        "assigned": "Assigned: what was parked is charged with the next run.",
        "sent-again": "It is sent again within seconds.",
    }
)
_RUNS: Final = (
    Column("Began", "started_at", "time"),
    Column("Job", "job"),
    Column("Status", "status", "state"),
    Column("Exporters", "sources", "count"),
    Column("Failed", "failed_sources", "count"),
    Column("Samples", "processed_samples", "count"),
    Column("Minutes written", "written_minutes", "count"),
    Column("Replayed", "replayed_minutes", "count"),
    Column("Debits", "debits", "count"),
    Column("Error", "error"),
)
_SUBJECTS: Final = (
    Column("UUID", "uuid", "code"),
    Column("E-mail", "email"),
    Column("Account", "account_id", "name", "/operator/accounts/{account_id}"),
    Column("Bytes", "bytes", "count"),
    Column("First seen", "created_at", "time"),
)
_EXPORTS: Final = (
    Column("Export", "name"),
    Column("Kind", "kind"),
    Column("Waiting", "waiting", "count"),
    Column("Behind (s)", "lag_seconds"),
    Column("Not taken", "parked", "count"),
    Column("Failures", "failures", "count"),
    Column("Error", "error"),
    Column("Last accepted", "accepted_at", "time"),
)
_PARKED: Final = (
    Column("Time", "parked_at", "time"),
    Column("Export", "export"),
    Column("Item", "item", "code"),
    Column("Account", "account_id", "name", "/operator/accounts/{account_id}"),
    Column("Why", "reason"),
)
_ENDPOINTS: Final = (
    Column("Address", "url", href="/operator/webhooks/{id}"),
    Column("Types", "types"),
    Column("On", "enabled"),
    Column("Failing since", "failing_since", "time"),
    Column("Turned off because", "disabled_reason"),
)
_DELIVERIES: Final = (
    Column("Time", "created_at", "time"),
    Column("Type", "type"),
    Column("State", "state", "state"),
    Column("Tries", "attempts", "count"),
    Column("Status", "status"),
    Column("Error", "error"),
    Column("Next try", "next_attempt_at", "time"),
)


async def jobs(visit: Visit) -> View:
    """Show the last runs of collection, and the last comparison of Redis with the ledger."""
    job = await visit.services.job() or JobShape()
    runs: Sequence[RunShape] = ()
    cursor = None
    if visit.services.collector is not None:
        found = await list_runs(visit.call, visit.query(PageQuery))
        runs, cursor = found.data, found.next_cursor
    figures = (
        Figure("Last job", job.job or "none yet"),
        Figure("How it went", job.status, "state", "" if job.error is UNSET else job.error or ""),
        Figure("Differences", None if job.drifts is UNSET else len(job.drifts), "count", "of Redis and the ledger"),
    )
    run = Form("Collect now", "/operator/jobs/collect", "Collect", hint="From all exporters; a run at a time.")
    table = Listed("Runs of collection, newest first", _RUNS, runs, cursor, empty="Nothing was collected yet.")
    return listed("Jobs", table, figures=figures, forms=(run,) if visit.services.collector is not None else ())


async def collect(visit: Visit) -> web.Response:
    """Collect from all exporters now."""
    if visit.services.collector is None:
        raise Unavailable("This gateway does not collect; ask another one.")
    await visit.services.collector.run()
    return visit.see("/operator/jobs", "collected")


async def exporters(visit: Visit) -> View:
    """Show whom exporters count, and have them assigned to accounts."""
    if visit.services.collector is None:
        return listed("Exporters", Listed("Exporters", _SUBJECTS, (), empty="This gateway does not collect."))
    found = await list_subjects(visit.call, visit.query(SubjectsQuery))
    fields = (
        Field("subject", "UUID or e-mail", required=True),
        Field("account_id", "Account", required=True, picks="account"),
    )
    hint = "What was parked of it is charged with the next run. Another account's is moved from the next minute on."
    assign = Form("Assign one to an account", "/operator/exporters/assign", "Assign", fields, hint=hint)
    states = Field("state", "Which", options=(("all", "all"), ("parked", "without an account")))
    table = Listed("Seen last first", _SUBJECTS, found.data, found.next_cursor, empty="Exporters have counted nobody.")
    return listed("Exporters", table, forms=(assign,), filters=(states,))


async def assign(visit: Visit) -> web.Response:
    """Give a subject of exporters an account."""
    body = visit.body(AssignBody, subject=visit.field("subject"), account_id=visit.field("account_id"))
    await assign_subject(visit.call, body)
    return visit.see("/operator/exporters", "assigned")


async def exports(visit: Visit) -> View:
    """Show how far exports are, and what the other sides do not take."""
    found = await list_exports(visit.call)
    parked = await list_parked_exports(visit.call, visit.query(ParkedExportsQuery))
    all_again = Act("Try all again", "/operator/exports/{name}/retry")
    standing = Listed("Exports", _EXPORTS, found.data, None, (all_again,), empty="Usage is exported nowhere.")
    refused = Listed("Not taken", _PARKED, parked.data, parked.next_cursor, empty="Everything was taken.")
    return listed("Exports", standing, refused)


async def retry(visit: Visit) -> web.Response:
    """Have tried again all that an export has parked."""
    await retry_exports(visit.call, RetryExport(export=visit.request.match_info["export"]))
    return visit.see("/operator/exports", "sent-again")


async def webhooks(visit: Visit) -> View:
    """Show the endpoints that operators' notices are sent to."""
    limit, after = page_asked(visit.query(PageQuery))
    found = await visit.services.endpoints.page(None, limit, after)
    shown = [EndpointShape.of_endpoint(each) for each in found.items]
    table = Listed(
        "The operators' own",
        _ENDPOINTS,
        shown,
        encode_cursor(found.next_after),
        empty="There is none. NOTIFICATION_WEBHOOK names one in the environment; others are made here.",
    )
    fields = (
        Field("url", "Address", required=True, hint="https, reachable from this gateway"),
        Field("description", "Description"),
    )
    form = Form("Add a webhook", "/operator/webhooks", "Add", fields, "Its secret is shown once, on the next page.")
    return listed("Webhooks", table, forms=(form,))


async def make_webhook(visit: Visit) -> View:
    """Make an endpoint of the operators', and show its secret, this once."""
    url, description = visit.field("url") or "", visit.field("description") or ""
    made = await visit.services.endpoints.create(None, url, None, description, actor=visit.call.actor)
    return once(f"Webhook to {made.url}", made.secret, f"/operator/webhooks/{made.id}", "Its deliveries")


async def webhook(visit: Visit) -> View:
    """Show deliveries to one address, and send one again."""
    endpoint_id = visit.call.id("endpoint_id")
    endpoint = await visit.services.endpoints.get(endpoint_id, None)
    limit, after = page_asked(visit.query(PageQuery))
    found = await visit.services.endpoints.deliveries(endpoint_id, None, limit, after)
    resend = Act("Send again", f"/operator/webhooks/{endpoint_id}/{{id}}/again")
    shown = [DeliveryShape.of_delivery(each) for each in found.items]
    table = Listed("Deliveries, newest first", _DELIVERIES, shown, encode_cursor(found.next_after), (resend,))
    test = Form("Send a test", f"/operator/webhooks/{endpoint_id}/test", "Send")
    return detailed(endpoint.url, EndpointShape.of_endpoint(endpoint), _ENDPOINTS[1:], table, forms=(test,))


async def test(visit: Visit) -> web.Response:
    """Send a notice of the type `test`."""
    endpoint_id = visit.call.id("endpoint_id")
    await visit.services.endpoints.test(endpoint_id, None)
    return visit.see(f"/operator/webhooks/{endpoint_id}", "sent-again")


async def again(visit: Visit) -> web.Response:
    """Send a delivery again."""
    endpoint_id = visit.call.id("endpoint_id")
    await visit.services.endpoints.redeliver(endpoint_id, visit.call.id("delivery_id"), None)
    return visit.see(f"/operator/webhooks/{endpoint_id}", "sent-again")


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/operator/jobs", jobs, Who.operator),
    Page("POST", "/operator/jobs/collect", collect, Who.operator, again=jobs),
    Page("GET", "/operator/exporters", exporters, Who.operator),
    Page("POST", "/operator/exporters/assign", assign, Who.operator, again=exporters),
    Page("GET", "/operator/exports", exports, Who.operator),
    Page("POST", "/operator/exports/{export}/retry", retry, Who.operator, again=exports),
    Page("GET", "/operator/webhooks", webhooks, Who.operator),
    Page("POST", "/operator/webhooks", make_webhook, Who.operator, again=webhooks),
    Page("GET", "/operator/webhooks/{endpoint_id}", webhook, Who.operator),
    Page("POST", "/operator/webhooks/{endpoint_id}/test", test, Who.operator, again=webhook),
    Page("POST", "/operator/webhooks/{endpoint_id}/{delivery_id}/again", again, Who.operator, again=webhook),
)
