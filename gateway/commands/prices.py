"""`metergate operator price`: list, check, compare and try prices. Reads files alone; a gateway follows its file."""

import os
from pathlib import Path
from typing import Annotated

import typer

from billing.cli import REFUSED, CommandFailed, Connect, Output, Shown, Table, add_command, group
from billing.price_table import PriceTable
from billing.prices import PriceRow

File = Annotated[Path | None, typer.Argument(help="A prices.yaml; without it, the one in force.", show_default=False)]


def add_prices(app: typer.Typer, _connect: Connect) -> None:
    """Add the group `price`."""
    price = group("What providers charge: prices.yaml.")
    add_command(price, "list", list_prices)
    add_command(price, "check", check)
    add_command(price, "import", import_prices)
    add_command(price, "diff", diff)
    add_command(price, "try", try_price)
    app.add_typer(price, name="price")


def _path() -> Path:
    """The file in force."""
    from gateway.config.settings import PRICES_FILE, find_folder

    named = os.environ.get("METERGATE_CONFIG")
    return find_folder(Path(named) if named else None) / PRICES_FILE


def _table(file: Path | None) -> PriceTable:
    from gateway.commands.misuse import explained_misuse
    from gateway.config.price_file import load_prices

    with explained_misuse():
        return load_prices(file or _path(), os.environ)


def _line(row: PriceRow) -> tuple[str, ...]:
    from billing.money import format_usd

    rates = [f"{name} {format_usd(nano)}" for name, nano in {**row.per_million, **row.per_unit}.items()]
    return f"{row.provider}/{row.model}", row.effective_from.isoformat(), ", ".join(rates), str(len(row.variants))


async def list_prices(
    output: Output, prefix: Annotated[str, typer.Argument(help="Rows whose provider/model begins so.")] = ""
) -> None:
    """List rows: USD per million tokens, or each."""
    lines = [_line(row) for row in _table(None).rows if f"{row.provider}/{row.model}".startswith(prefix)]
    output.show(Shown({"data": lines}, (Table(("model", "from", "prices", "variants"), lines),)))


async def check(output: Output, file: File = None) -> None:
    """Say whether a file can be read, and what is wrong with it, line by line."""
    rows = len(_table(file).rows)
    output.show(Shown({"rows": rows}, (f"{rows} rows, nothing wrong.",)))


async def import_prices(output: Output, file: Annotated[Path, typer.Argument(help="A prices.yaml.")]) -> None:
    """Check a file and put it in the place of the one in force; running gateways follow within a second."""
    from gateway.config.settings import SHIPPED_FOLDER

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
    lines = [("-", *_line(row)) for price_id, row in before.items() if price_id not in after]
    lines += [("+", *_line(row)) for price_id, row in after.items() if price_id not in before]
    lines.sort(key=lambda line: line[1:])
    output.show(Shown({"data": lines}, (Table(("", "model", "from", "prices", "variants"), lines),)))


async def try_price(
    output: Output,
    model: Annotated[str, typer.Argument(help="provider/model.", show_default=False)],
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
    from billing.money import format_usd
    from billing.rates import round_up
    from billing.usage import COUNT_NAMES, Usage, UsageError

    provider, _, name = model.partition("/")
    now_s = time.time()
    row = _table(None).find(provider, name, now_s)
    if row is None:
        raise CommandFailed(f"No row prices {model}. See metergate operator price list.", REFUSED)
    try:
        values = {key: int(value) for key, _, value in (each.partition("=") for each in counts)}
        if not values.keys() <= set(COUNT_NAMES):
            raise UsageError(f"Counts are {', '.join(COUNT_NAMES)}.")
        usage = Usage(**values)  # type: ignore[arg-type]
    except ValueError as error:
        raise CommandFailed(f"These counts can't be priced: {error}", REFUSED) from error
    minute = int(now_s % 86_400 // 60)
    variant = row.variant(service_tier, None, speed, region, minute)
    lines = [
        (line.price_class, shown_quantity(line), format_usd(line.rate_nano), exact_usd(line.amount_scaled))
        for line in row.lines(usage, variant)
    ]
    cost = format_usd(round_up(row.cost_scaled(usage, variant)))
    said = f"{cost} USD by {row.provider}/{row.model} from {row.effective_from}" + (f", {variant}" if variant else "")
    data = {"cost_usd": cost, "price_id": row.id, "variant": variant, "lines": lines}
    output.show(Shown(data, (Table(("class", "quantity", "price USD", "amount USD"), lines), said)))
