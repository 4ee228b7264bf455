"""Body logs that tests make: settings, a place that may fail, and what was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import structs

from gateway.body_logs.places import Folder
from gateway.body_logs.sealed_file import Keys
from gateway.config.body_logs import BodyLogConfig
from gateway.config.secret import Secret
from gateway.config.settings import Settings

KEY, NEXT_KEY = "the first key of the tests, 32 bytes", "another key of the tests, 32 bytes"


def config(to: Path | str, **fields: Any) -> BodyLogConfig:
    """A configuration that records everything and writes at once."""
    made = BodyLogConfig(
        to=str(to), encryption_key=Secret(KEY), accounts=frozenset(), write_every_s=0.05, folder_free_bytes=0
    )
    return structs.replace(made, **fields)


def logging_to(to: Path | str, **fields: Any) -> Any:
    """What has a gateway log bodies."""

    def change(settings: Settings) -> Settings:
        return replace(settings, body_logs=config(to, **fields))

    return change


async def written(folder: Path, keys: Keys | None = None, account: str | None = None) -> list[dict[str, Any]]:
    """All that a folder has, by the order of requests."""
    place, found = Folder(folder, 0), []
    for day in await place.days():
        for name in await place.names(day, account):
            found += [json.loads(line) for line in (keys or Keys(KEY)).lines(await place.get(name))]
    return sorted(found, key=lambda each: str(each["request_id"]))
