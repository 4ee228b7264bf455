"""The shipped configuration, read once: half of what it costs to make a gateway, and most of what commands do."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from billing.pricing import PriceTable
from gateway.config import settings
from gateway.config.settings import Settings, load_settings
from gateway.config.source import PRICES_FILE, SHIPPED_FOLDER, Problems, Value


@cache
def shipped_settings(admin_key: str) -> Settings:
    """The settings of a command that knows this admin key and no other variable. They are frozen: change a copy."""
    return load_settings({"ADMIN_API_KEY": admin_key}, mode="command")


def share_prices() -> None:
    """Have the shipped prices be read once in this process, as nobody changes them; every other file is read anew."""
    read_file, read_prices = settings.read_file, settings.read_prices
    shipped = (SHIPPED_FOLDER / PRICES_FILE).resolve()  # that `config` in a checkout leads to
    found: list[tuple[Value, PriceTable]] = []

    def read_shipped(path: Path, shown: str, environ: Mapping[str, str], problems: Problems) -> Value | None:
        if path.resolve() != shipped:
            return read_file(path, shown, environ, problems)
        if found:
            return found[0][0]
        value = read_file(path, shown, environ, problems)
        if value is not None:
            before, prices = len(problems), read_prices(value)
            if len(problems) == before:  # else each reader is told what is wrong
                found.append((value, prices))
        return value

    def prices_of(at: Value) -> PriceTable:
        return found[0][1] if found and at is found[0][0] else read_prices(at)

    settings.read_file, settings.read_prices = read_shipped, prices_of
