"""Answers as CSV (RFC 4180, https://www.rfc-editor.org/rfc/rfc4180) for who asks for `text/csv`.

This file owns that a table is streamed in bounded memory, that one that breaks off never looks whole, and that no cell
is a formula to a spreadsheet (https://owasp.org/www-community/attacks/CSV_Injection). The time limit of a request holds
for each part of a table, not for the whole.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import ClientConnectionResetError, web

from billing.api.services import SERVICES

CSV: Final = "text/csv"
# What ends a request that takes too long.
TIME_LIMIT: Final = web.RequestKey("time_limit", asyncio.Timeout)
_JSON: Final = "application/json"
# What a cell begins with that a spreadsheet may take for a formula; a number does no harm. The last four are the wide
# forms of the first four.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_QUOTED: Final = re.compile('[",\r\n]')
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
_QUALITY: Final = re.compile(r"\s*q\s*=\s*(?P<q>[01](\.\d{0,3})?)\s*", re.ASCII)

_log = logging.getLogger(__name__)


def wants_csv(request: web.Request) -> bool:
    """Return whether `Accept` prefers CSV to JSON: by its quality, or alone."""
    named = {CSV: 0.0, _JSON: 0.0}
    for part in ",".join(request.headers.getall("Accept", ())).split(","):
        media, *parameters = part.split(";")
        if (name := media.strip().lower()) in named:
            found = (_QUALITY.fullmatch(each) for each in parameters)
            named[name] = next((float(match["q"]) for match in found if match), 1.0)
    return named[CSV] > named[_JSON]


def rows(table: Iterable[Iterable[object]]) -> bytes:
    """Return rows as lines of CSV. Nothing is an empty cell, an empty text two quotation marks, what is a mapping or a
    list its JSON."""
    return "".join(f"{','.join(map(_quoted, row))}\r\n" for row in table).encode()


def _quoted(value: object) -> str:
    if value is None:
        return ""
    cell = _cell(value)
    return '"{}"'.format(cell.replace('"', '""')) if not cell or _QUOTED.search(cell) else cell


def _cell(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            is_formula = value.startswith(_FORMULA) and _NUMBER.fullmatch(value) is None
            return f"'{value}" if is_formula else value
        case int() | float():
            return str(value)
    return msgspec.json.encode(value).decode()


@dataclass(frozen=True, slots=True)
class Table:
    """A table to be streamed: the name of its file without the ending, and its lines in parts."""

    name: str
    parts: AsyncIterator[bytes]

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Send it part by part. What fails before the first is raised as by any handler; later the connection is
        aborted, so that nobody takes what has come for all."""
        first = await anext(self.parts, b"")
        response = web.StreamResponse(
            headers={
                "Content-Type": f"{CSV}; charset=utf-8; header=present",
                "Content-Disposition": f'attachment; filename="{self.name}.csv"',
                "Cache-Control": "no-store",
                "Vary": "Accept",
            }
        )
        try:
            await response.prepare(request)
            await response.write(first)
            async for part in self.parts:
                _prolong(request)
                await response.write(part)
            await response.write_eof()
        except BaseException as error:
            _log.info("%s broke off: %s", request.path, type(error).__name__)
            if request.transport is not None:
                request.transport.abort()
            if not isinstance(error, ClientConnectionResetError):  # the client has left: nothing has failed
                raise
        return response


def _prolong(request: web.Request) -> None:
    """Give the request as long again: a part of it was made and taken in time."""
    if (limit := request.get(TIME_LIMIT)) is not None:
        limit.reschedule(asyncio.get_running_loop().time() + request.config_dict[SERVICES].request_timeout_s)
