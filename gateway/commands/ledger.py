"""`metergate ledger`: its proof, and debits that it could not take, which are written once the cause is mended."""

from typing import TYPE_CHECKING, Annotated

import typer

from billing.cli import REFUSED, TIMED, USAGE, CommandFailed, Output, Shown, Table, add_command, group
from billing.money import format_usd
from gateway.commands.store_options import MARKS, open_database, refuse_api_url

if TYPE_CHECKING:
    from billing.ledger.dead_letters import DeadLetter, Replayed
    from billing.ledger.verify import Verified


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
    from billing.ledger.dead_letters import count_dead_letters, list_dead_letters

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
    from billing.ledger.dead_letters import replay

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
    from billing.ledger.dead_letters import discard

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
