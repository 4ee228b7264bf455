"""Files of a folder, by hour: CSV, or Parquet, which needs pyarrow (`pip install metergate[parquet]`).

A file is written under another name, beside the one that it gets when it is whole. An hour is written once it is over;
events that are written later, or that are too many for one file, come in further files of the same hour, so that
`DAY/usage-DAYTHH-*` of a folder has each event of that hour once. The number in a name is that of the file's batch:
whoever writes a batch again replaces its files by the same ones.
"""

from __future__ import annotations

import asyncio
import csv
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol

import msgspec

from billing.exports.events import ExportEvent, tags, units
from billing.exports.sinks import PlainSink, Refusals, SinkFailed
from billing.money import format_usd
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

Format = Literal["csv", "parquet"]
FORMATS: Final[tuple[Format, ...]] = ("csv", "parquet")
# Events of one file at most: some 40 MB of memory while it is written.
BATCH: Final = 10_000
# How long after its end an hour is written, so that nearly all of its events are there.
SETTLED: Final = timedelta(minutes=5)
# How old a file is that nobody finishes any more: its writer has died.
LEFT_S: Final = 3600.0
_TEXTS: Final = (
    "request_id",
    "account_id",
    "user_id",
    "key_id",
    "endpoint",
    "feature",
    "model",
    "provider",
    "provider_model",
    "price_id",
    "end_user",
)
_COUNTS: Final = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "status",
    "latency_ms",
    "ttft_ms",
)
_TRUTHS: Final = ("estimated", "stream")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
# What the provider charges and what the customer pays; `charged_usd` is the same until the next release.
_MONEY: Final = ("cost_usd", "charged_usd", "charge_usd")
COLUMNS: Final = ("admitted_at", *_TEXTS, *_COUNTS, *_TRUTHS, "units", "tags", *_MONEY)


class Writer(Protocol):
    """A file that is being written."""

    def write(self, events: Sequence[ExportEvent]) -> None:
        """Append events."""

    def close(self) -> None:
        """Write what is left."""


def file_name(hour: datetime, number: int | None, format: Format) -> str:
    """Return the name of an hour's file below its folder; `number` is that of its batch, None where it is whole."""
    day = f"{hour:%Y-%m-%d}"
    return f"{day}/usage-{day}T{hour:%H}{'' if number is None else f'-{number}'}.{format}"


class HourFile:
    """One hour's file, which is there under its name once it is closed whole. Raises `OSError`; `SinkFailed` for
    Parquet without pyarrow."""

    def __init__(self, folder: Path, name: str, format: Format) -> None:
        self.path = folder / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._unfinished = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        for left in self.path.parent.glob(f".{self.path.name}.*.tmp"):
            if time.time() - left.stat().st_mtime > LEFT_S:
                left.unlink(missing_ok=True)
        self._file = self._unfinished.open("wb")
        try:
            self._writer: Writer = _CsvWriter(self._file) if format == "csv" else _parquet_writer(self._file)
        except BaseException:
            self.drop()
            raise

    def write(self, events: Sequence[ExportEvent]) -> None:
        """Append events."""
        self._writer.write(events)

    def finish(self) -> None:
        """Bring the file to disk, then give it its name."""
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._unfinished.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def drop(self) -> None:
        """Leave nothing of a file that is not whole."""
        with suppress(OSError):
            self._file.close()
        self._unfinished.unlink(missing_ok=True)


def write_file(folder: Path, name: str, format: Format, events: Sequence[ExportEvent]) -> Path:
    """Write one file whole, and return where it is. Raises as `HourFile`."""
    file = HourFile(folder, name, format)
    try:
        file.write(events)
        file.finish()
    except BaseException:
        file.drop()
        raise
    return file.path


def cells(event: ExportEvent) -> dict[str, Any]:
    """Return the columns of an event; amounts are exact decimals of USD, units and tags JSON."""
    found: dict[str, Any] = {name: getattr(event, name) for name in (*_TEXTS, *_COUNTS, *_TRUTHS)}
    found["admitted_at"] = event.admitted_at
    found["units"] = msgspec.json.encode(units(event), order="sorted").decode()
    found["tags"] = msgspec.json.encode(tags(event), order="sorted").decode()
    found["cost_usd"] = format_usd(event.cost_nano)
    found["charged_usd"] = found["charge_usd"] = format_usd(event.charged_nano)
    return found


class _CsvWriter:
    """CSV by RFC 4180. A text that a spreadsheet would take for a formula begins with an apostrophe."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._append([COLUMNS])

    def write(self, events: Sequence[ExportEvent]) -> None:
        """Append events."""
        self._append([_csv_cell(each[name]) for name in COLUMNS] for each in map(cells, events))

    def _append(self, rows: Iterable[Sequence[str]]) -> None:
        lines = _Lines()
        csv.writer(lines, lineterminator="\r\n").writerows(rows)
        self._file.write("".join(lines.written).encode())

    def close(self) -> None:
        """Write nothing more."""


class _Lines:
    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.written.append(text)
        return len(text)


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return rfc3339(value)
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _parquet_writer(file: IO[bytes]) -> Writer:
    try:
        import pyarrow  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra, of 150 MB
        import pyarrow.parquet  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise SinkFailed("Parquet needs pyarrow: pip install 'metergate[parquet]', or take csv.") from error
    texts = [(name, pyarrow.string()) for name in _TEXTS]
    counts = [(name, pyarrow.int64()) for name in _COUNTS]
    truths = [(name, pyarrow.bool_()) for name in _TRUTHS]
    money = [(name, pyarrow.decimal128(18, 9)) for name in _MONEY]
    texts_of_json = [("units", pyarrow.string()), ("tags", pyarrow.string())]
    schema = pyarrow.schema(
        [("admitted_at", pyarrow.timestamp("ms", tz="UTC")), *texts, *counts, *truths, *texts_of_json, *money]
    )

    class ParquetWriter:
        def __init__(self) -> None:
            self._writer = pyarrow.parquet.ParquetWriter(file, schema, compression="zstd")

        def write(self, events: Sequence[ExportEvent]) -> None:
            rows = []
            for each in map(cells, events):
                rows.append(each | {name: Decimal(each[name]) for name in _MONEY})
            self._writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))

        def close(self) -> None:
            self._writer.close()

    return ParquetWriter()


@dataclass
class Folder(PlainSink):
    """Files of a folder, which all gateways that may export to it must share."""

    kind: ClassVar[str] = "folder"
    batch = BATCH

    name: str
    path: Path
    format: Format
    write: Callable[..., Path] = write_file

    def before(self, now: datetime) -> datetime:
        """Return the beginning of the hour that is not over yet, or not for long."""
        return (now.astimezone(UTC) - SETTLED).replace(minute=0, second=0, microsecond=0)

    async def send(self, events: Sequence[ExportEvent]) -> Refusals:
        """Write the files of a batch. Raises `SinkFailed`."""
        hours: dict[datetime, list[ExportEvent]] = {}
        for event in events:
            hours.setdefault(event.hour, []).append(event)
        for hour, found in sorted(hours.items()):
            name = file_name(hour, events[0].wseq, self.format)
            try:
                await asyncio.to_thread(self.write, self.path, name, self.format, found)
            except OSError as error:
                raise SinkFailed(f"the folder of export {self.name} can't be written: {error.strerror}") from error
        return {}
