"""The environment's variables as one typed value. This file owns which variables there are and what each may say.

A wrong value is a problem of `environment` under the variable's name; a secret's text is never shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

from billing.addresses import Network, parse_networks
from billing.database.urls import split_url
from billing.money import MAX_NANO
from gateway.config.exporters import ExporterSource, read_exporter_sources
from gateway.config.problems import NO_EFFECT, Problems
from gateway.config.reader import (
    PLACE,
    Reader,
    parse_amount,
    parse_duration_s,
    parse_listen,
    parse_origins,
    parse_per_byte,
)
from gateway.config.secret import Secret
from gateway.config.variables import NOT_SERVED, SETTINGS_VARIABLES

Mode = Literal["serve", "up", "command"]
PaymentProvider = Literal["local", "stripe"]

LISTEN: Final = ("0.0.0.0", 8080)  # noqa: S104  (what a server in a container or behind a proxy wants)
UP_LISTEN: Final = ("127.0.0.1", 8080)
UP_METRICS_ADDR: Final = "127.0.0.1:9090"
NO_METRICS_ADDR: Final = "off"
MAX_BYTES: Final = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The variables of the documentation, typed. Amounts in nano-USD; `price_per_byte_scaled` in nano-USD per byte
    times `prices.FACTOR_SCALE`; URLs without a slash at their end. `metrics_addr` is `HOST:PORT`; optional where nobody
    asked for it."""

    listen_host: str
    listen_port: int
    database_url: Secret | None
    redis_url: Secret | None
    data_dir: Path
    spool_dir: Path | None
    config_dir: Path | None
    max_body_bytes: int
    proxy_max_body_bytes: int
    request_timeout_s: int
    cors_origins: tuple[str, ...]
    frontend_url: str | None
    image: str
    admin_api_key: Secret | None
    service_api_key: Secret | None
    trusted_proxies: tuple[Network, ...]
    metrics_addr: str | None
    metrics_addr_optional: bool
    request_log: str | None
    auth_base_url: str | None
    auth_audience: str | None
    auth_cookie_secret: Secret | None
    jwt_secret: Secret | None
    jwt_expiry_hours: int
    refresh_token_expiry_days: int
    payment_provider: PaymentProvider
    stripe_api_key: Secret | None
    stripe_webhook_secret: Secret | None
    stripe_api_base: str
    stripe_price_starter: str | None
    stripe_price_professional: str | None
    stripe_price_enterprise: str | None
    payment_grace_days: int
    smtp_host: str | None
    smtp_port: int
    smtp_user: str | None
    smtp_password: Secret | None
    smtp_from: str | None
    notification_webhook: Secret | None
    lago_api_url: str | None
    lago_api_key: Secret | None
    exporter_sources: tuple[ExporterSource, ...]
    internal_service_token: Secret | None
    collect_interval_s: int
    default_region: str
    source_revision: str
    price_per_byte_scaled: int
    initial_included_quota_bytes: int
    initial_balance_nano: int
    api_url: str | None
    api_token: Secret | None


def read_environment(environ: Mapping[str, str], mode: Mode, problems: Problems) -> Environment:
    """Reads every variable of `SETTINGS_VARIABLES`; what is wrong goes to `problems` and stands as a default here."""
    read = Reader(environ, problems)
    host, port = _listen(read, mode)
    stripe_key = _stripe_key(read)
    config = read.maybe("METERGATE_CONFIG")
    data_dir = Path(read.text("METERGATE_DATA_DIR")).expanduser().absolute()
    environment = Environment(
        listen_host=host,
        listen_port=port,
        database_url=_database_url(read),
        redis_url=read.secret_url("REDIS_URL", ("redis", "rediss", "unix")),
        data_dir=data_dir,
        spool_dir=_spool_dir(read, mode, data_dir),
        config_dir=None if config is None else Path(config).expanduser(),
        max_body_bytes=read.whole("MAX_BODY_BYTES", 1024, MAX_BYTES),
        proxy_max_body_bytes=read.whole("PROXY_MAX_BODY_BYTES", 1024, MAX_BYTES),
        request_timeout_s=read.whole("REQUEST_TIMEOUT_SECONDS", 1, 3600),
        cors_origins=read.parsed("CORS_ORIGINS", parse_origins, "origins such as https://app.example.com, or *", ()),
        frontend_url=read.url("FRONTEND_URL"),
        image=read.text("IMAGE"),
        admin_api_key=read.key("ADMIN_API_KEY"),
        service_api_key=read.key("SERVICE_API_KEY"),
        trusted_proxies=read.parsed(
            "TRUSTED_PROXIES", parse_networks, "networks such as 10.0.0.0/8, separated by commas", ()
        ),
        metrics_addr=_metrics_addr(read, mode),
        metrics_addr_optional=read.given("METRICS_ADDR") is None,
        request_log=_request_log(read),
        auth_base_url=read.url("AUTH_BASE_URL"),
        auth_audience=read.maybe("AUTH_AUDIENCE"),
        auth_cookie_secret=read.secret("AUTH_COOKIE_SECRET"),
        jwt_secret=read.secret("JWT_SECRET"),
        jwt_expiry_hours=read.whole("JWT_EXPIRY_HOURS", 1, 8760),
        refresh_token_expiry_days=read.whole("REFRESH_TOKEN_EXPIRY_DAYS", 1, 3650),
        payment_provider=_payment_provider(read, stripe_key, mode),
        stripe_api_key=stripe_key,
        stripe_webhook_secret=read.secret("STRIPE_WEBHOOK_SECRET"),
        stripe_api_base=read.url("STRIPE_API_BASE") or "",
        stripe_price_starter=read.maybe("STRIPE_PRICE_STARTER"),
        stripe_price_professional=read.maybe("STRIPE_PRICE_PROFESSIONAL"),
        stripe_price_enterprise=read.maybe("STRIPE_PRICE_ENTERPRISE"),
        payment_grace_days=read.whole("PAYMENT_GRACE_DAYS", 0, 365),
        smtp_host=read.maybe("SMTP_HOST"),
        smtp_port=read.whole("SMTP_PORT", 1, 65_535),
        smtp_user=read.maybe("SMTP_USER"),
        smtp_password=read.secret("SMTP_PASSWORD"),
        smtp_from=read.parsed("SMTP_FROM", lambda text: text if "@" in text else None, "an e-mail address", "") or None,
        notification_webhook=read.secret_url("NOTIFICATION_WEBHOOK", ("https", "http")),
        lago_api_url=read.url("LAGO_API_URL"),
        lago_api_key=read.secret("LAGO_API_KEY"),
        exporter_sources=read_exporter_sources(read),
        internal_service_token=read.secret("INTERNAL_SERVICE_TOKEN"),
        collect_interval_s=read.parsed(
            "COLLECT_INTERVAL", parse_duration_s, "a duration from 1s to 24h such as 1m", 60
        ),
        default_region=read.text("DEFAULT_REGION"),
        source_revision=read.text("SOURCE_REVISION"),
        price_per_byte_scaled=read.parsed("PRICE_PER_BYTE", parse_per_byte, "a decimal with at most 18 decimals", 0),
        initial_included_quota_bytes=read.whole("INITIAL_INCLUDED_QUOTA_BYTES", 0, MAX_NANO),
        initial_balance_nano=read.parsed("INITIAL_BALANCE", parse_amount, "a decimal of USD such as 12.50", 0),
        api_url=read.url("METERGATE_API_URL"),
        api_token=read.secret("METERGATE_API_TOKEN"),
    )
    for name, other in (
        ("AUTH_BASE_URL", "AUTH_AUDIENCE"),
        ("SMTP_HOST", "SMTP_FROM"),
        ("LAGO_API_URL", "LAGO_API_KEY"),
    ):
        read.needs(name, other)
    idle = [name for name in NOT_SERVED if read.text(name) != SETTINGS_VARIABLES[name].default]
    if idle:
        problems.note(PLACE, ", ".join(idle), NO_EFFECT)
    return environment


def command_environment(environ: Mapping[str, str]) -> Environment:
    """The variables alone, for commands that need no configuration file. Raises `ConfigError`."""
    problems = Problems()
    environment = read_environment(environ, "command", problems)
    problems.refuse()
    return environment


def _database_url(read: Reader) -> Secret | None:
    url = read.secret_url("DATABASE_URL", ("postgresql", "postgres"))
    try:
        if url is not None:
            split_url(url.reveal())
    except ValueError as error:
        read.problems.add(PLACE, "DATABASE_URL", str(error))
    return url


def _listen(read: Reader, mode: Mode) -> tuple[str, int]:
    expected = "an address and a port such as 0.0.0.0:8080"
    return read.parsed("LISTEN_ADDR", parse_listen, expected, UP_LISTEN if mode == "up" else LISTEN)


def _metrics_addr(read: Reader, mode: Mode) -> str | None:
    if mode == "up" and read.given("METRICS_ADDR") is None:
        return UP_METRICS_ADDR
    if read.text("METRICS_ADDR") in ("", NO_METRICS_ADDR):
        return None
    address = read.parsed("METRICS_ADDR", parse_listen, "an address and a port such as 127.0.0.1:9090, or off", ("", 0))
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _stripe_key(read: Reader) -> Secret | None:
    key, alias = read.secret("STRIPE_API_KEY"), read.secret("STRIPE_SECRET_KEY")
    if key is not None and alias is not None and key != alias:
        read.problems.add(PLACE, "STRIPE_SECRET_KEY", "differs from STRIPE_API_KEY; set one of them")
    return key or alias


def _payment_provider(read: Reader, stripe_key: Secret | None, mode: Mode) -> PaymentProvider:
    """A gateway with a Stripe key must not take local payments for real ones only because nobody named the provider."""
    name = read.text("PAYMENT_PROVIDER") or ("local" if stripe_key is None else "stripe")
    if name not in ("local", "stripe"):
        read.wrong("PAYMENT_PROVIDER", "local or stripe")
        return "local"
    if name == "stripe" and stripe_key is None:
        read.problems.add(PLACE, "STRIPE_API_KEY", "expected a value, because PAYMENT_PROVIDER is stripe")
    if name == "stripe" and mode != "command" and read.given("STRIPE_WEBHOOK_SECRET") is None:
        read.problems.add(PLACE, "STRIPE_WEBHOOK_SECRET", "expected a value: without it no payment can be believed")
    return cast("PaymentProvider", name)


def _request_log(read: Reader) -> str | None:
    named = read.maybe("METERGATE_REQUEST_LOG")
    return named if named in (None, "-") else str(Path(named).expanduser().absolute())


def _spool_dir(read: Reader, mode: Mode, data_dir: Path) -> Path | None:
    named = read.maybe("METERGATE_SPOOL_DIR")
    if named == "off":
        return None
    if named is not None:
        return Path(named).expanduser().absolute()
    return data_dir / "spool" if mode == "up" else None
