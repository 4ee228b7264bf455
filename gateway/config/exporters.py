"""Where traffic is collected from: `EXPORTER_SOURCES_JSON`, or the single `EXPORTER_BASE_URL`."""

import json
from dataclasses import dataclass
from typing import Final

from gateway.config.problems import nearest
from gateway.config.reader import PLACE, Reader, is_url
from gateway.config.secret import Secret

MAX_SOURCES: Final = 1000
TIMEOUT_S: Final = 15
_TEXT_KEYS: Final = ("source_id", "base_url", "token", "region", "expected_node_id", "expected_env")
_SOURCE_KEYS: Final = (*_TEXT_KEYS, "enabled", "timeout_seconds")


@dataclass(frozen=True, slots=True)
class ExporterSource:
    """A place to collect traffic from. `expected_...` are compared with what it says of itself, where given."""

    source_id: str
    base_url: str
    token: Secret | None
    region: str
    expected_node_id: str | None
    expected_env: str | None
    enabled: bool
    timeout_s: int


def read_exporter_sources(read: Reader) -> tuple[ExporterSource, ...]:
    """The sources that the variables name; none when they are unset. Each wrong one is a problem."""
    name = "EXPORTER_SOURCES_JSON"
    region, token = read.text("DEFAULT_REGION"), read.secret("INTERNAL_SERVICE_TOKEN")
    single, text = read.url("EXPORTER_BASE_URL"), read.given(name)
    if text is None:
        return (
            () if single is None else (ExporterSource("default", single, token, region, None, None, True, TIMEOUT_S),)
        )
    try:
        said = json.loads(text)
    except ValueError as error:
        read.problems.add(PLACE, name, f"not JSON: {error}")
        return ()
    if not isinstance(said, list) or len(said) > MAX_SOURCES:
        read.wrong(name, f"a JSON list of at most {MAX_SOURCES} sources")
        return ()
    sources: list[ExporterSource] = []
    for place, item in enumerate(said):
        source = _exporter_source(item, region, token)
        if isinstance(source, str):
            read.problems.add(PLACE, f"{name}[{place}]", source)
        elif source.source_id in {other.source_id for other in sources}:
            read.problems.add(PLACE, f"{name}[{place}].source_id", "given twice")
        else:
            sources.append(source)
    return tuple(sources)


def _exporter_source(said: object, region: str, token: Secret | None) -> ExporterSource | str:
    """One source, or what is wrong with it. Texts are never shown: a token may stand in the wrong place."""
    if not isinstance(said, dict):
        return "expected an object with source_id and base_url"
    unknown = sorted(set(said) - set(_SOURCE_KEYS))
    if unknown:
        return f"unknown key {unknown[0]}{nearest(unknown[0], _SOURCE_KEYS)}"
    for key in _TEXT_KEYS:
        if said.get(key) is not None and not isinstance(said[key], str):
            return f"{key}: expected a text"
    source_id, base_url = said.get("source_id") or "", said.get("base_url") or ""
    if not source_id or not is_url(base_url):
        return "expected a source_id, and a base_url that begins with https:// or http://"
    enabled, timeout_s = said.get("enabled", True), said.get("timeout_seconds", TIMEOUT_S)
    if not isinstance(enabled, bool) or type(timeout_s) is not int or not 1 <= timeout_s <= 600:
        return "expected enabled as true or false, and timeout_seconds from 1 to 600"
    return ExporterSource(
        source_id=source_id,
        base_url=base_url.rstrip("/"),
        token=Secret(said["token"]) if said.get("token") else token,
        region=said.get("region") or region,
        expected_node_id=said.get("expected_node_id"),
        expected_env=said.get("expected_env"),
        enabled=enabled,
        timeout_s=timeout_s,
    )
