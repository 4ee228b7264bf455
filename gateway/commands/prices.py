"""`metergate operator price`: list, check, compare and try prices, on files alone, which a gateway follows; reprice
requests of a period, which a gateway does."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from billing.cli import REFUSED, REMOTE, USAGE, CommandFailed, Connect, Output, Shown, Table, add_command, group
from billing.cli.options import moment
from billing.cli.prompts import Yes, confirm
from billing.money import format_usd
from billing.pricing import PriceRow, PriceTable

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.accounts import NewRepricing, RepricedShape

# Requests that a repricing names.
MOST_SHOWN: Final = 1000

File = Annotated[Path | None, typer.Argument(help="A prices.yaml; without it, the one in force.", show_default=False)]


def add_prices(app: typer.Typer, connect: Connect) -> None:
    """Add the group `price`."""
    price = group("What providers charge: prices.yaml.")
    add_command(price, "list", list_prices)
    add_command(price, "check", check)
    add_command(price, "import", import_prices)
    add_command(price, "diff", diff)
    add_command(price, "try", try_price)
    _add_reprice(price, connect)
    app.add_typer(price, name="price")


def _path() -> Path:
    """Return the file in force."""
    from gateway.config.source import PRICES_FILE, find_folder

    named = os.environ.get("METERGATE_CONFIG")
    return find_folder(Path(named) if named else None) / PRICES_FILE


def _table(file: Path | None) -> PriceTable:
    from gateway.commands.data_folder import explained_misuse
    from gateway.config.prices import load_prices

    with explained_misuse():
        return load_prices(file or _path(), os.environ)


def _usd(rates: Mapping[str, int]) -> dict[str, str]:
    return {name: format_usd(nano) for name, nano in rates.items()}


def _line(row: PriceRow) -> tuple[str, ...]:
    rates = [f"{name} {usd}" for name, usd in _usd({**row.per_million, **row.per_unit}).items()]
    return f"{row.provider}/{row.model}", row.effective_from.isoformat(), ", ".join(rates), str(len(row.variants))


def _data(row: PriceRow) -> dict[str, object]:
    """Return a row for scripts; the prices that hold where no tier and no variant does."""
    return {
        "price_id": row.id,
        "provider": row.provider,
        "model": row.model,
        "effective_from": row.effective_from.isoformat(),
        "usd_per_million": _usd(row.per_million),
        "usd_per_unit": _usd(row.per_unit),
        "tiers": len(row.tiers),
        "variants": [variant.name for variant in row.variants],
    }


async def list_prices(
    output: Output, prefix: Annotated[str, typer.Argument(help="Rows whose provider/model begins with this.")] = ""
) -> None:
    """List rows: USD per million tokens, or each."""
    rows = [row for row in _table(None).rows if f"{row.provider}/{row.model}".startswith(prefix)]
    table = Table(("model", "from", "prices", "variants"), [_line(row) for row in rows])
    shown = table if rows else f"No row begins with {prefix}."
    output.show(Shown({"data": [_data(row) for row in rows]}, (shown,)))


async def check(output: Output, file: File = None) -> None:
    """Say whether a file can be read. If not, what is wrong with it, line by line."""
    rows = len(_table(file).rows)
    output.show(Shown({"rows": rows}, (f"{rows} rows, nothing wrong.",)))


async def import_prices(output: Output, file: Annotated[Path, typer.Argument(help="A prices.yaml.")]) -> None:
    """Check a file and put it in force. Running gateways follow within a second."""
    from gateway.config.source import SHIPPED_FOLDER

    rows, target = len(_table(file).rows), _path()
    if target.parent == SHIPPED_FOLDER:
        raise CommandFailed("The shipped prices are in force: make a folder of your own with metergate init.", REFUSED)
    beside = target.with_name(f".{target.name}.new")
    try:
        beside.write_bytes(file.read_bytes())
        beside.replace(target)
    except OSError as error:
        raise CommandFailed(f"Cannot write {target}: {error.strerror}.", REFUSED) from error
    output.show(Shown({"rows": rows, "file": str(target)}, (f"{target}: {rows} rows.",)))


async def diff(output: Output, file: Annotated[Path, typer.Argument(help="Another prices.yaml.")]) -> None:
    """Say which rows another file adds (+) and no longer has (-)."""
    before, after = ({row.id: row for row in _table(each).rows} for each in (None, file))
    changes = [("-", row) for price_id, row in before.items() if price_id not in after]
    changes += [("+", row) for price_id, row in after.items() if price_id not in before]
    changes.sort(key=lambda change: _line(change[1]))
    table = Table(("", "model", "from", "prices", "variants"), [(sign, *_line(row)) for sign, row in changes])
    data = [{"change": "added" if sign == "+" else "removed", **_data(row)} for sign, row in changes]
    output.show(Shown({"data": data}, (table if changes else "Both have the same rows.",)))


async def try_price(
    output: Output,
    model: Annotated[
        str, typer.Argument(help="provider/model, or a name that one provider alone has.", show_default=False)
    ],
    counts: Annotated[
        list[str], typer.Argument(help="Such as input_tokens=1000 output_tokens=50.", show_default=False)
    ],
    service_tier: Annotated[str | None, typer.Option(help="As the answer names it.")] = None,
    speed: Annotated[str | None, typer.Option(help="As the answer names it.")] = None,
    region: Annotated[str | None, typer.Option(help="As the answer names it.")] = None,
) -> None:
    """Price a usage, line by line."""
    import time

    from billing.ledger.explanations import exact_usd, shown_quantity
    from billing.pricing import NoSuchPrice, TrialRefused, find_row, try_usage, usage_of
    from billing.schemas.usage import LineShape

    now_s = time.time()
    try:
        row = find_row(_table(None), model, now_s)
        trial = try_usage(row, usage_of(counts), now_s, service_tier, speed, region)
    except TrialRefused as error:
        raise CommandFailed(str(error), REFUSED if isinstance(error, NoSuchPrice) else USAGE) from error
    lines = [
        (line.price_class, shown_quantity(line), format_usd(line.rate_nano), exact_usd(line.amount_scaled))
        for line in trial.lines
    ]
    cost, variant = format_usd(trial.cost_nano), trial.variant
    summary = f"{cost} USD by {row.provider}/{row.model} from {row.effective_from}" + (
        f", {variant}" if variant else ""
    )
    data = {
        "cost_usd": cost,
        "price_id": row.id,
        "provider": row.provider,
        "model": row.model,
        "variant": variant,
        "lines": [LineShape.of_line(line, exact_usd(line.amount_scaled)) for line in trial.lines],
    }
    output.show(Shown(data, (Table(("class", "quantity", "price USD", "amount USD"), lines), summary)))


@dataclass(frozen=True, slots=True)
class Period:
    """Which requests are compared with which price, and why."""

    model: Annotated[str, typer.Argument(help="provider/model, as prices name it.", show_default=False)]
    since: Annotated[str, moment("From then on: a time, a day, or 7d, 24h.")]
    until: Annotated[str, moment("Before then.")]
    account: Annotated[str | None, typer.Option(metavar="ACCOUNT", help="Of this account only.")] = None
    price_id: Annotated[
        str | None, typer.Option("--price", metavar="PRICE_ID", help="This row, not the present one for each time.")
    ] = None
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; the customer sees it.")] = None


def _add_reprice(price: typer.Typer, connect: Connect) -> None:
    async def work(
        output: Output,
        period: Period,
        apply: Annotated[bool, typer.Option("--apply", help="Correct it; else it is only compared.")] = False,
        yes: Yes = False,
    ) -> None:
        """Compare what a period was charged with another price. With --apply it is corrected by transfers.

        The same again changes nothing: what was broken off is done again from the beginning.
        """
        from billing.schemas.accounts import NewRepricing

        provider, slash, name = period.model.partition("/")
        if not (provider and slash and name):
            raise typer.BadParameter("name it as provider/model, as operator price list does")
        asked = NewRepricing(
            provider=provider,
            model=name,
            since=period.since,
            until=period.until,
            account_id=period.account,
            price_id=period.price_id,
            reason=period.reason,
            dry_run=True,
        )
        await _reprice(output, connect, asked, apply=apply, yes=yes)

    add_command(price, "reprice", work, REMOTE)


async def _reprice(output: Output, connect: Connect, asked: "NewRepricing", *, apply: bool, yes: bool) -> None:
    from msgspec.structs import replace

    from billing.cli.calls import explained_answers

    with explained_answers():
        async with connect(output) as client:
            found = None if apply and yes else await _repriced(client, asked, output)
            if apply and (found is None or found.difference_nano):
                if found is not None:
                    confirm((f"{found.in_all}, by transfers in the ledger.",), yes=yes)
                found = await _repriced(client, replace(asked, dry_run=False), output)
    assert found is not None  # noqa: S101  (compared, or corrected)
    rows = [
        (each.created_at, each.id, each.account_id, each.charge_usd, each.would_be_usd, each.left or "")
        for each in found.lines
    ]
    verb = f"{found.corrected} corrected" if apply else "none corrected (--apply does)"
    summary = f"{found.requests} requests, {verb}, {found.left} left; {found.in_all}."
    headers = ("time", "request", "account", "charge USD", "would be USD", "left because")
    parts = (Table(headers, rows), summary) if rows else (summary,)
    summed = {"dry_run": not apply, "requests": found.requests, "corrected": found.corrected, "left": found.left}
    output.show(Shown({**summed, "difference_usd": format_usd(found.difference_nano), "data": found.lines}, parts))


@dataclass(slots=True)
class _Repriced:
    """What all batches of a repricing have come to; `lines` are the first requests that differ, or are left."""

    requests: int = 0
    corrected: int = 0
    left: int = 0
    difference_nano: int = 0
    lines: "list[RepricedShape]" = field(default_factory=list)

    @property
    def in_all(self) -> str:
        """Return what is moved, in words."""
        way = "given back" if self.difference_nano < 0 else "charged more"
        return f"{format_usd(abs(self.difference_nano))} USD to be {way} in all"


async def _repriced(client: "BillingCalls", asked: "NewRepricing", output: Output) -> _Repriced:
    """Compare or correct, batch by batch."""
    from msgspec import structs

    from billing.pages import MAX_LIMIT

    found, cursor = _Repriced(), None
    while True:
        page: dict[str, Any] = {"limit": MAX_LIMIT, "cursor": cursor}
        batch = await client.reprice(**structs.asdict(asked), **page)
        found.requests += batch.requests
        found.corrected += batch.corrected
        found.left += sum(each.left is not None for each in batch.data)
        found.difference_nano += _nano(batch.difference_usd)
        told = [each for each in batch.data if each.left is not None or _nano(each.difference_usd)]
        found.lines += told[: MOST_SHOWN - len(found.lines)]
        cursor = batch.next_cursor
        if cursor is None:
            return found
        output.note(f"{found.requests} requests, {format_usd(found.difference_nano)} USD so far ...")


def _nano(usd: str) -> int:
    """Return a sum, which may be beyond the bound of one amount."""
    from decimal import Decimal

    from billing.money import USD_DECIMALS

    return int(Decimal(usd).scaleb(USD_DECIMALS))
