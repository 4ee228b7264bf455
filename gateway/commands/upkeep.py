"""Commands on the stores themselves: migrate, doctor, explain, reconcile, and export, which writes usage events of a
time as files of a folder, by hour.

`metergate ledger`: its proof, and debits that it could not take, which are written once the cause is mended.
"""

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.cli import (
    REFUSED,
    REMOTE,
    TIMED,
    UNREACHABLE,
    USAGE,
    CommandFailed,
    Output,
    Shown,
    Table,
    add_command,
    group,
)
from billing.cli.options import moment
from billing.money import format_usd
from billing.settings import RefusalSettings
from billing.times import TimeError, parse_rfc3339
from gateway.commands.store_options import MARKS, open_database, open_ledger, refuse_api_url

if TYPE_CHECKING:
    from billing.cli.session import Session
    from billing.database.connection import Database
    from billing.exports.folder import Format
    from billing.ledger.verify import Verified
    from billing.ledger.writer import DeadLetter, Replayed
    from billing.refused_requests import RefusedRequest

# The longest that `refusals_kept_s` can be: what is there is shown.
MOST_KEPT_S: Final = 31 * 86_400.0


def add_upkeep(app: typer.Typer) -> None:
    """Add all of them."""
    add_command(app, "migrate", migrate)
    add_command(app, "doctor", doctor, TIMED)
    add_command(app, "explain", explain, REMOTE)
    add_command(app, "reconcile", reconcile)


async def migrate(
    output: Output,
    plan: Annotated[
        bool, typer.Option("--plan", help="Change nothing: show what each migration locks, and for how long.")
    ] = False,
    copy: Annotated[
        bool, typer.Option("--copy", help="With --plan: measure it on a copy of the whole database, below TMPDIR.")
    ] = False,
) -> None:
    """Bring the database to this version's schema."""
    refuse_api_url(output)
    if copy and not plan:
        raise CommandFailed("--copy is of --plan.", USAGE)
    from billing.database.migrate import migrate as apply_migrations
    from gateway.commands.stores import explained_failures, named_store, open_stores
    from gateway.config.environment import command_environment

    with explained_failures():
        async with open_stores(command_environment(os.environ), output, redis=False) as stores:
            if plan:
                from gateway.commands import migration_plan

                with named_store(stores.database_url):
                    shown = migration_plan.shown(await migration_plan.plan(stores, output, copy=copy))
            else:
                with named_store(stores.database_url):
                    applied = await apply_migrations(stores.database_url)
                summary = f"Applied {', '.join(applied)}." if applied else "The schema is up to date."
                shown = Shown({"applied": applied}, (summary,))
    output.show(shown)


async def doctor(
    output: Output,
    providers: Annotated[
        bool, typer.Option("--providers", help="Call each provider once, to see whether it takes its key.")
    ] = False,
) -> int:
    """Find what is wrong, and how to mend it.

    Checks the configuration, providers, prices, vocabularies, the disk, Postgres and Redis. Exit code 1 if anything
    fails, 3 if there is no data to look at.
    """
    refuse_api_url(output)
    import msgspec

    from gateway.commands.doctor import DATA, diagnose
    from gateway.commands.stores import explained_failures

    with explained_failures():
        checks = await diagnose(os.environ, output, providers=providers)
    rows = [(MARKS[check.status], check.name, check.message) for check in checks]
    mend = [f"{check.name}: {check.mend}" for check in checks if check.mend]
    failed = any(check.status == "fail" for check in checks)
    data = {"ok": not failed, "checks": msgspec.to_builtins(checks)}
    output.show(Shown(data, (Table(("", "check", "finding"), rows), *(["To fix:", *mend] if mend else []))))
    if any(check.name == DATA for check in checks):
        return UNREACHABLE
    return REFUSED if failed else 0


async def explain(
    output: Output,
    request_id: Annotated[str, typer.Argument(help="The answer's x-request-id.", show_default=False)],
) -> None:
    """Show how a request came to its charge. Of one that was refused, what it lacked.

    Customers ask their gateway, with the sign-in, --token-file or METERGATE_API_TOKEN; operators the stores themselves.
    """
    session = _session(output)
    if session is not None:
        from billing.cli.calls import explained_to_people
        from billing.cli.usage import explained

        with explained_to_people(session):
            shown = await explained(await session.open_signed_in(), request_id)
    else:
        shown = await _explained_by_stores(output, request_id)
    output.show(shown)


def _session(output: Output) -> "Session | None":
    """Return whom a request is explained to by a gateway; None: to the operator, by the stores. Options decide first,
    then DATABASE_URL, METERGATE_API_TOKEN, the data folder, and the sign-in."""
    from gateway.commands.connect import finder
    from gateway.commands.data_folder import explained_misuse
    from gateway.config.environment import command_environment
    from gateway.embedded.folders import has_data

    with explained_misuse():
        environment = command_environment(os.environ)
    is_named = output.common.api_url is not None or output.common.token_file is not None
    if not is_named and environment.database_url is not None:
        return None
    session = finder(os.environ)(output)
    if is_named or environment.api_token is not None:
        return session
    return None if has_data(environment.data_dir) or session.files.kept() is None else session


async def _explained_by_stores(output: Output, request_id: str) -> Shown:
    from billing.cli.usage import shown_refusal
    from billing.ledger.explanations import explain as explain_event
    from billing.ledger.explanations import format_explanation
    from billing.ledger.reports import Reports
    from billing.schemas.system import RefusedShape
    from billing.schemas.usage import ExplainedEventShape

    async with open_ledger(output, output.common.timeout_s) as (database, redis_url):
        found = await Reports(database).priced_event(request_id)
        if found is None and redis_url is not None:
            refused = await _find_refused(redis_url, request_id)
            if refused is not None:
                return shown_refusal(RefusedShape.of_refused(refused, with_hint=True))
    if found is None:
        raise CommandFailed(
            f"The ledger has no request {request_id!r}, and no refusal of it is kept: give the x-request-id of its "
            "answer."
        )
    explanation = explain_event(*found)
    return Shown(ExplainedEventShape.of_explanation(explanation, with_cost=True), (format_explanation(explanation),))


async def reconcile(
    output: Output,
    fix: Annotated[
        bool, typer.Option("--fix", help="Have Redis loaded again from the ledger, whether or not they differ.")
    ] = False,
) -> int:
    """Compare Redis with the ledger, account by account.

    Balances, holds, windows and the sequence of debits. Exit code 1 on any difference.
    """
    refuse_api_url(output)
    from billing.schemas.system import ReportShape
    from gateway.commands.stores import explained_failures, open_stores, ready_schema
    from gateway.config.environment import command_environment
    from gateway.config.settings import load_settings
    from gateway.runtime.stores import open_engine

    with explained_failures():
        environment = command_environment(os.environ)
        settings = load_settings(os.environ, mode="command", with_prices=False)
        async with open_stores(environment, output, redis=True) as stores:
            await ready_schema(stores)
            async with open_engine(
                settings, database_url=stores.database_url, redis_url=stores.redis_url, embedded=stores.embedded
            ) as opened:
                report = await opened.engine.reconcile_once(fix=fix)
    rows = [(drift.account_id, drift.what, str(drift.redis), str(drift.ledger)) for drift in report.drifts]
    summary = f"{report.accounts} accounts compared, {len(rows)} differences."
    parts: list[str | Table] = [Table(("account", "what", "Redis", "ledger"), rows), summary] if rows else [summary]
    if fix:
        parts.append("A new epoch has begun: Redis is loaded again from the ledger.")
    output.show(Shown(ReportShape.of_report(report), tuple(parts)))
    return REFUSED if rows else 0


async def _find_refused(redis_url: str, request_id: str) -> "RefusedRequest | None":
    """Return the refusal, if it is still kept. Raises `RedisError`."""
    from billing.holds.redis.client import RedisClient
    from billing.holds.redis.layout import Keyspace
    from billing.holds.redis.state import RedisState
    from billing.refused_requests import RefusedRequests

    client = RedisClient(redis_url)
    try:
        return await RefusedRequests(RedisState(client, Keyspace()), RefusalSettings(refusals_kept_s=MOST_KEPT_S)).find(
            request_id
        )
    finally:
        await client.close()


# The longest statement: that which sorts all events of the time.
STATEMENT_S: Final = 3600.0
# Events in memory.
AT_ONCE: Final = 2_000


def add_export(app: typer.Typer) -> None:
    """Add it."""
    add_command(app, "export", export)


async def export(
    output: Output,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where the files go.", show_default=False)],
    since: Annotated[str, moment("From then on, such as 2027-01-31, or 7d, yesterday.")],
    until: Annotated[str | None, moment("Before then; else until now.")] = None,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="csv or parquet.")] = "csv",
) -> None:
    """Write usage events as files. There is one for each hour of their admission.

    A file replaces the one of the same hour that an earlier run has written: choose whole hours. Parquet needs pyarrow.
    """
    refuse_api_url(output)
    from billing.exports.folder import FORMATS
    from billing.exports.sinks import SinkFailed

    format = next((each for each in FORMATS if each == format_), None)
    if format is None:
        raise CommandFailed(f"--format is one of {', '.join(FORMATS)}.", USAGE)
    begin, end = _moment("--since", since), datetime.now(UTC) if until is None else _moment("--until", until)
    if begin >= end:
        raise CommandFailed("--since must be before --until.", USAGE)
    try:
        async with open_database(output, STATEMENT_S) as database:
            events, charged_nano, files = await _write(database, to, format, begin, end)
    except SinkFailed as failed:
        raise CommandFailed(str(failed)) from failed
    except OSError as error:
        raise CommandFailed(f"{to} can't be written: {error.strerror}") from error
    from billing.money import format_usd

    charge_usd, paths = format_usd(charged_nano), [str(each) for each in files]
    data = {"events": events, "charge_usd": charge_usd, "charged_usd": charge_usd, "files": paths}
    output.show(Shown(data, (f"{events} events, charged {charge_usd} USD, are in {len(files)} files.",)))


def _moment(option: str, text: str) -> datetime:
    try:
        return parse_rfc3339(text)
    except TimeError as error:
        raise CommandFailed(f"{option}: {error}.", USAGE) from error


async def _write(
    database: "Database", folder: Path, format: "Format", begin: datetime, end: datetime
) -> tuple[int, int, list[Path]]:
    """Write the events of one snapshot, in the order of their admission, so that one file is open at a time."""
    from billing.database.connection import queries
    from billing.exports.folder import HourFile, file_name
    from billing.exports.worker import event_of

    events, charged_nano, files = 0, 0, []
    open_file: tuple[datetime, HourFile] | None = None
    try:
        async with database.transaction(snapshot=True) as connection:
            query = queries("billing.exports")("events_between")
            cursor = await connection.cursor(query, begin, end)
            while rows := await cursor.fetch(AT_ONCE):
                found = [event_of(row) for row in rows]
                for hour in sorted({event.hour for event in found}):
                    if open_file is not None and open_file[0] != hour:
                        open_file[1].finish()
                        open_file = None
                    if open_file is None:
                        open_file = (hour, HourFile(folder, file_name(hour, None, format), format))
                        files.append(open_file[1].path)
                    open_file[1].write([event for event in found if event.hour == hour])
                events += len(found)
                charged_nano += sum(event.charged_nano for event in found)
        if open_file is not None:
            open_file[1].finish()
            open_file = None
    finally:
        if open_file is not None:
            with suppress(OSError):
                open_file[1].drop()
    return events, charged_nano, files


def add_ledger(app: typer.Typer) -> None:
    """Add the group."""
    ledger = group("The double-entry ledger.")
    add_command(ledger, "verify", verify_ledger)
    set_aside = group("Debits that the ledger could not take.")
    add_command(set_aside, "list", list_debits, TIMED)
    add_command(set_aside, "replay", replay_debits, TIMED)
    add_command(set_aside, "discard", discard_debit, TIMED)
    ledger.add_typer(set_aside, name="set-aside")
    app.add_typer(ledger, name="ledger")


async def verify_ledger(output: Output) -> int:
    """Prove the ledger from one snapshot.

    Balances, transfers, events, prices and rollups. Exit code 1 on any difference; the first ones are named.
    """
    refuse_api_url(output)
    from billing.ledger.verify import STATEMENT_TIMEOUT_S, verify

    async with open_database(output, STATEMENT_TIMEOUT_S) as database:
        with output.step("Verified the ledger"):
            verified = await verify(database)
    output.show(_verified(verified))
    return 0 if verified.ok else REFUSED


async def list_debits(
    output: Output,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Show at most so many.")] = 1000,
) -> None:
    """Show what was set aside, the oldest first, and why."""
    refuse_api_url(output)
    from billing.holds.recovery import debit_of_entry
    from billing.ledger.writer import count_dead_letters, list_dead_letters

    async with open_database(output, output.common.timeout_s) as database:
        found, total = await list_dead_letters(database, debit_of_entry, limit), await count_dead_letters(database)
    rows = [(each.request_id, _account(each), _charged(each), each.kind, each.reason) for each in found]
    parts: list[str | Table] = [Table(("request", "account", "USD", "kind", "reason"), rows)] if rows else []
    parts.append(f"{total} debits are set aside." if total else "No debit is set aside.")
    output.show(Shown({"total": total, "debits": [_shape(each) for each in found]}, tuple(parts)))


async def replay_debits(
    output: Output,
    request_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[REQUEST_ID]...", help="Those to write.", show_default=False)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Write all that is set aside.")] = False,
) -> int:
    """Write debits that were set aside, once the cause is mended.

    Doing it twice is harmless. Exit code 1 if any can't be written still; the reason is named.
    """
    refuse_api_url(output)
    if bool(request_ids) == all_:
        raise CommandFailed("Name the requests to replay, or give --all.", USAGE)
    from billing.holds.recovery import debit_of_entry
    from billing.ledger.writer import replay

    async with open_database(output, output.common.timeout_s) as database:
        replayed = [each async for each in replay(database, debit_of_entry, request_ids or None)]
    found = {each.request_id for each in replayed}
    absent = sorted(set(request_ids or ()) - found)
    rows: list[tuple[str, ...]] = [(each.request_id, each.result, each.reason) for each in replayed]
    rows += [(request_id, "not set aside", "") for request_id in absent]
    left = sum(not each.done for each in replayed)
    parts: list[str | Table] = [Table(("request", "result", "reason"), rows)] if rows else []
    parts.append(f"{len(replayed) - left} written or known, {left} can't be written still.")
    data = {"debits": [*map(_result_shape, replayed), *({"id": each, "result": "absent"} for each in absent)]}
    output.show(Shown(data, tuple(parts)))
    return REFUSED if left else 0


async def discard_debit(
    output: Output,
    request_id: Annotated[str, typer.Argument(help="As `list` names it.", show_default=False)],
) -> None:
    """Give up one that can never be written. The audit log keeps what it was."""
    refuse_api_url(output)
    from billing.ledger.writer import discard

    async with open_database(output, output.common.timeout_s) as database:
        found = await discard(database, request_id)
    if not found:
        raise CommandFailed(f"Nothing is set aside as {request_id!r}: `metergate ledger set-aside list` has the names.")
    output.show(Shown({"id": request_id, "discarded": True}, (f"{request_id} is given up; the audit log has it.",)))


def _account(each: "DeadLetter") -> str:
    return each.debit.account_id if each.debit is not None else "?"


def _charged(each: "DeadLetter") -> str:
    return format_usd(each.debit.charged_nano) if each.debit is not None else "?"


def _shape(each: "DeadLetter") -> dict[str, object]:
    debit = each.debit
    return {
        "id": each.request_id,
        "kind": each.kind,
        "account_id": None if debit is None else debit.account_id,
        "charge_usd": None if debit is None else format_usd(debit.charged_nano),
        "charged_usd": None if debit is None else format_usd(debit.charged_nano),
        "reason": each.reason,
        "set_aside_at": each.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }


def _result_shape(each: "Replayed") -> dict[str, object]:
    return {"id": each.request_id, "result": each.result, "reason": each.reason}


def _verified(verified: "Verified") -> Shown:
    import msgspec

    rows = [
        (
            MARKS["ok"] if not found.differences else MARKS["fail"],
            found.name,
            str(found.looked_at),
            str(found.differences),
        )
        for found in verified.checks
    ]
    named = [f"{found.name}: {example}" for found in verified.checks for example in found.examples]
    parts: list[str | Table] = [Table(("", "check", "looked at", "differences"), rows), *named]
    data = {"ok": verified.ok, "checks": msgspec.to_builtins(verified.checks)}
    return Shown(data, tuple(parts))
