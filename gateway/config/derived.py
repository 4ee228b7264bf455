"""Settings that are read out of several variables, or that depend on the command: how each of them is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, cast

import msgspec
from msgspec import Meta, Struct, structs

from billing.database.urls import split_url
from billing.money import MAX_NANO
from billing.payments.stripe.objects import KEY_EXPECTED, LIVE_KEYS, TEST_KEYS
from billing.pricing.scales import FACTOR_SCALE
from gateway.config.reader import PLACE, is_url, joined_address, parse_listen
from gateway.config.secret import Secret

if TYPE_CHECKING:
    from gateway.config.reader import Reader

PaymentProvider = Literal["local", "stripe"]

LISTEN: Final = ("0.0.0.0", 8080)  # noqa: S104  (what a server in a container or behind a proxy wants)
UP_LISTEN: Final = ("127.0.0.1", 8080)
UP_METRICS_ADDR: Final = "127.0.0.1:9090"
NO_METRICS_ADDR: Final = "off"

_PER_BYTE: Final = re.compile(r"(\d{1,10})(?:\.(\d{1,18}))?", re.ASCII)
_ADDRESS: Final = re.compile(r"[!-;=?A-~]+@[A-Za-z0-9.-]+", re.ASCII)
MAX_SOURCES: Final = 1000


class ExporterSource(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"timeout_s": "timeout_seconds"}
):
    """An exporter to collect traffic from. `expected_...`, where set, are compared with what it reports of itself."""

    source_id: Annotated[str, Meta(min_length=1)]
    base_url: str
    token: Secret | None = None
    region: str | None = None
    expected_node_id: str | None = None
    expected_env: str | None = None
    enabled: bool = True
    timeout_s: Annotated[int, Meta(ge=1, le=600)] = 15


def read_exporter_sources(read: Reader) -> tuple[ExporterSource, ...]:
    """Return where traffic is collected from: EXPORTER_SOURCES_JSON, or the single EXPORTER_BASE_URL; none without
    both. Each wrong source is a problem."""
    name = "EXPORTER_SOURCES_JSON"
    region, token = read.text("DEFAULT_REGION"), read.secret("INTERNAL_SERVICE_TOKEN")
    single, text = read.url("EXPORTER_BASE_URL"), read.given(name)
    if text is None:
        return (
            ()
            if single is None
            else (ExporterSource(source_id="default", base_url=single, token=token, region=region),)
        )
    try:
        given = json.loads(text)
    except ValueError as error:
        read.problems.add(PLACE, name, f"not JSON: {error}")
        return ()
    if not isinstance(given, list) or len(given) > MAX_SOURCES:
        read.wrong(name, f"a JSON list of at most {MAX_SOURCES} sources")
        return ()
    sources: list[ExporterSource] = []
    for index, item in enumerate(given):
        source = _exporter_source(item, region, token)
        if isinstance(source, str):
            read.problems.add(PLACE, f"{name}[{index}]", source)
        elif source.source_id in {other.source_id for other in sources}:
            read.problems.add(PLACE, f"{name}[{index}].source_id", "given twice")
        else:
            sources.append(source)
    return tuple(sources)


def _exporter_source(given: object, region: str, token: Secret | None) -> ExporterSource | str:
    """Return one source, or what is wrong with it. Texts are never shown: a token may stand in the wrong place."""
    try:
        source = msgspec.convert(given, ExporterSource, dec_hook=lambda kind, text: kind(text))
    except msgspec.ValidationError as error:
        return str(error)
    if not is_url(source.base_url):
        return "expected a base_url that begins with https:// or http://"
    return structs.replace(
        source, base_url=source.base_url.rstrip("/"), token=source.token or token, region=source.region or region
    )


def read_listen_addr(read: Reader) -> str:
    """Return where the gateway listens."""
    expected = "an address and a port such as 0.0.0.0:8080"
    return joined_address(*read.parsed("LISTEN_ADDR", parse_listen, expected, UP_LISTEN if _is_up(read) else LISTEN))


def _is_up(read: Reader) -> bool:
    """Return whether the gateway is that of `metergate up`: also for a command on its data folder."""
    return read.mode == "up" or (read.mode == "command" and read.given("DATABASE_URL") is None)


def read_database_url(read: Reader) -> Secret | None:
    """Return Postgres's URL; a problem where asyncpg could not read it."""
    url = read.secret_url("DATABASE_URL", ("postgresql", "postgres"))
    try:
        if url is not None:
            split_url(url.reveal())
    except ValueError as error:
        read.problems.add(PLACE, "DATABASE_URL", str(error))
    return url


def read_data_dir(read: Reader) -> Path:
    """Return the data folder as an absolute path."""
    return Path(read.text("METERGATE_DATA_DIR")).expanduser().absolute()


def read_spool_dir(read: Reader) -> Path | None:
    """Return the folder of copies of debits; None for none."""
    named = read.maybe("METERGATE_SPOOL_DIR")
    if named == "off":
        return None
    if named is not None:
        return Path(named).expanduser().absolute()
    return read_data_dir(read) / "spool" if read.mode == "up" else None


def read_config_dir(read: Reader) -> Path | None:
    """Return the folder of configuration files that is named."""
    named = read.maybe("METERGATE_CONFIG")
    return None if named is None else Path(named).expanduser()


def read_metrics_addr(read: Reader) -> str | None:
    """Return where metrics are served without a key; None for nowhere."""
    if read.mode == "up" and read.given("METRICS_ADDR") is None:
        return UP_METRICS_ADDR
    if read.text("METRICS_ADDR") in ("", NO_METRICS_ADDR):
        return None
    expected = "an address and a port such as 127.0.0.1:9090, or off"
    return joined_address(*read.parsed("METRICS_ADDR", parse_listen, expected, ("", 0)))


def read_request_log(read: Reader) -> str | None:
    """Return the request log's path, `-` for stdout, None for none."""
    named = read.maybe("METERGATE_REQUEST_LOG")
    return named if named in (None, "-") else str(Path(named).expanduser().absolute())


def read_log_format(read: Reader) -> Literal["text", "json"]:
    """Return how the logs are written."""
    name = read.text("METERGATE_LOG_FORMAT") or "text"
    if name not in ("text", "json"):
        read.wrong("METERGATE_LOG_FORMAT", "text or json")
    return "json" if name == "json" else "text"


def read_payment_provider(read: Reader) -> PaymentProvider | None:
    """Return the payment provider; None: payments are off. A gateway must not take local payments for real ones only
    because nobody named the provider: it is local by itself for `up` alone, and never beside a key of Stripe's."""
    has_stripe_key = read.given("STRIPE_API_KEY") is not None or read.given("STRIPE_SECRET_KEY") is not None
    name = read.text("PAYMENT_PROVIDER") or ("stripe" if has_stripe_key else "local" if _is_up(read) else "")
    if name not in ("local", "stripe", ""):
        read.wrong("PAYMENT_PROVIDER", "local or stripe")
        return None
    if name == "stripe" and not has_stripe_key:
        read.problems.add(PLACE, "STRIPE_API_KEY", "expected a value, because PAYMENT_PROVIDER is stripe")
    key = read.given("STRIPE_API_KEY") or read.given("STRIPE_SECRET_KEY")
    if name == "stripe" and key is not None and not key.startswith((*LIVE_KEYS, *TEST_KEYS)):
        read.problems.add(PLACE, "STRIPE_API_KEY", f"expected {KEY_EXPECTED}")
    if name == "stripe" and read.mode != "command" and read.given("STRIPE_WEBHOOK_SECRET") is None:
        read.problems.add(PLACE, "STRIPE_WEBHOOK_SECRET", "expected a value: without it no payment can be believed")
    return cast("PaymentProvider", name) if name else None


def read_stripe_key(read: Reader) -> Secret | None:
    """Return Stripe's key, under either of its names."""
    key, alias = read.secret("STRIPE_API_KEY"), read.secret("STRIPE_SECRET_KEY")
    if key is not None and alias is not None and key != alias:
        read.problems.add(PLACE, "STRIPE_SECRET_KEY", "differs from STRIPE_API_KEY; set one of them")
    return key or alias


def mail_address(text: str) -> str | None:
    """Return a text that can be an e-mail address, without a name; None for anything else."""
    return text if _ADDRESS.fullmatch(text) else None


def parse_per_byte(text: str) -> int | None:
    """Return nano-USD per byte times `FACTOR_SCALE`, of a decimal of USD with at most 18 decimals; None otherwise."""
    match = _PER_BYTE.fullmatch(text)
    if match is None:
        return None
    scaled = int(match[1]) * 10**18 + int((match[2] or "").ljust(18, "0"))
    return scaled if scaled <= MAX_NANO * FACTOR_SCALE else None
