"""The `exports` of metergate.yaml: where usage is told, and as what."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, assert_never, cast, get_args

from billing.exports.events import MEASURES
from gateway.config.providers import NO_KEY, read_base_url, read_key
from gateway.config.secret import Secret
from gateway.config.source import Value

if TYPE_CHECKING:
    from gateway.config.source import Section

Kind = Literal["lago", "stripe_meters", "cloudevents", "folder"]
Format = Literal["csv", "parquet"]
KINDS: Final = cast("tuple[Kind, ...]", get_args(Kind))
MAX_EXPORTS: Final = 20
MAX_METERS: Final = 100
MAX_BATCH: Final = 1_000
NOW, BEGINNING = "now", "beginning"
_COMMON: Final = ("name", "kind", "from")
_KEYS: Final[dict[Kind, tuple[str, ...]]] = {
    "lago": ("url", "api_key", "plan_code", "meters"),
    "stripe_meters": ("meters",),
    "cloudevents": ("url", "token", "source", "type", "batch", "private_addresses"),
    "folder": ("path", "format"),
}
_REQUIRED: Final[dict[Kind, tuple[str, ...]]] = {
    "lago": (),
    "stripe_meters": ("meters",),
    "cloudevents": ("url",),
    "folder": ("path",),
}
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,50}", re.ASCII)


@dataclass(frozen=True, slots=True)
class MeterConfig:
    """A meter at the other side: its code there, what it counts (one of `MEASURES`, None: nothing but the event) and
    the feature whose events it counts, None for all."""

    code: str
    value: str | None
    feature: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """One export. Of what its kind has no use for it has the defaults; None is what the kind itself has by default.
    `url` has no slash at its end."""

    name: str
    kind: Kind
    from_beginning: bool = False
    url: str | None = field(default=None, repr=False)
    key: Secret | None = None
    plan_code: str | None = None
    meters: tuple[MeterConfig, ...] = ()
    source: str | None = None
    type: str | None = None
    batch: int = 100
    private_addresses: bool = False
    path: Path | None = None
    format: Format = "csv"


def off_reason(export: ExportConfig, payment_provider: str | None, lago_api_url: str | None) -> str | None:
    """Return which setting an export needs that isn't there; None for one that is on."""
    if export.kind == "stripe_meters" and payment_provider != "stripe":
        return "Stripe's meters need PAYMENT_PROVIDER=stripe"
    if export.kind == "lago" and (export.url or lago_api_url) is None:
        return "it needs a url, or LAGO_API_URL"
    return None


def read_exports(at: Value | None) -> tuple[ExportConfig, ...]:
    """Return the exports; one whose key's variable is unset is off, and left out."""
    found: dict[str, ExportConfig] = {}
    items = [] if at is None else at.items()
    if at is not None and len(items) > MAX_EXPORTS:
        at.problem(f"at most {MAX_EXPORTS} exports")
    for item in items:
        export = _read_export(item)
        if export is not None and export.name in found:
            item.problem(f"there is another export with the name {export.name}: give this one a name")
        elif export is not None:
            found[export.name] = export
    return tuple(found.values())


def _read_export(value: Value) -> ExportConfig | None:
    kind = cast("Kind | None", value.entries()["kind"].choice(KINDS) if "kind" in value.child_names else None)
    if kind is None:
        value.section((*_COMMON, *(key for keys in _KEYS.values() for key in keys)), ("kind",))
        return None
    section = value.section((*_COMMON, *_KEYS[kind]), ("kind", *_REQUIRED[kind]))
    name = section.read("name", lambda each: _matching(each, _NAME, "a name such as to-lago"), kind.replace("_", "-"))
    begin = section.read("from", lambda each: each.choice((NOW, BEGINNING)), NOW)
    given = section.values.get("token" if kind == "cloudevents" else "api_key")
    key = (None if given is None else read_key(given)) or NO_KEY
    more = _of_kind(kind, section)
    if not section.ok or key.off_reason is not None:
        return None
    return ExportConfig(name=name, kind=kind, from_beginning=begin == BEGINNING, key=key.secret, **more)


def _lago(section: Section) -> dict[str, Any]:
    url = section.maybe("url", read_base_url)
    return {
        "url": None if url is None else url.rstrip("/"),
        "plan_code": section.maybe("plan_code", lambda each: _matching(each, _CODE, "a plan's code")),
        "meters": section.maybe("meters", lambda each: _meters(each, "code")) or (),
    }


def _of_kind(kind: Kind, section: Section) -> dict[str, Any]:
    match kind:
        case "lago":
            return _lago(section)
        case "stripe_meters":
            return {"meters": section.maybe("meters", lambda each: _meters(each, "event_name")) or ()}
        case "folder":
            path = Path(section.read("path", Value.text, ""))
            return {"path": path, "format": section.read("format", lambda each: each.choice(get_args(Format)), "csv")}
        case "cloudevents":
            return {
                "url": section.maybe("url", read_base_url),
                "source": section.maybe("source", Value.text),
                "type": section.maybe("type", Value.text),
                "batch": section.read("batch", lambda each: each.whole(1, MAX_BATCH), 100),
                "private_addresses": section.read("private_addresses", Value.truth, False),
            }
        case _:
            assert_never(kind)


def _meters(value: Value, code_key: str) -> tuple[MeterConfig, ...]:
    found: list[MeterConfig] = []
    items = value.items()
    if not 0 < len(items) <= MAX_METERS:
        value.problem(f"expected 1 to {MAX_METERS} meters")
    for item in items:
        section = item.section(
            (code_key, "value", "feature"), (code_key, "value") if code_key == "event_name" else (code_key,)
        )
        code = section.read(code_key, lambda each: _matching(each, _CODE, "a meter's code"), "")
        measured = section.maybe("value", lambda each: each.choice(MEASURES))
        feature = section.maybe("feature", Value.text)
        if code in [each.code for each in found]:
            item.problem(f"{code} stands here twice")
        found.append(MeterConfig(code, measured, feature))
    return tuple(found)


def _matching(value: Value, form: re.Pattern[str], what: str) -> str | None:
    text = value.text(what)
    if text is not None and not form.fullmatch(text):
        value.expected(what)
        return None
    return text
