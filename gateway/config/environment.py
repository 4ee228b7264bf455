"""The environment's variables, each declared once: `Environment` has what is read, its fields' metadata say how.

`.env.example`, the documentation's tables and the warning about what has no effect go by the same declarations
(`gateway.config.settings`). A wrong value is a problem of `environment` under the variable's name; a secret's text is
never shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal

from billing.addresses import Network, parse_networks
from billing.money import MAX_NANO
from gateway.config import derived
from gateway.config.derived import ExporterSource, PaymentProvider
from gateway.config.problems import NO_EFFECT, Problems
from gateway.config.reader import (
    PLACE,
    Mode,
    Reader,
    Variable,
    declare,
    declare_key,
    declare_optional,
    declare_parsed,
    declare_secret,
    declare_secret_url,
    declare_signing_secret,
    declare_text,
    declare_url,
    declare_whole,
    parse_amount,
    parse_duration_s,
    parse_origins,
)
from gateway.config.secret import Secret

MAX_BYTES: Final = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The variables, typed, in the order in which users find them. Amounts in nano-USD; `price_per_byte_scaled` in
    nano-USD per byte times `prices.FACTOR_SCALE`; URLs without a slash at their end; `..._addr` are `HOST:PORT`."""

    listen_addr: str = declare(
        derived.read_listen_addr,
        Variable(
            "LISTEN_ADDR", "", "address and port to listen on; unset: `up`: 127.0.0.1:8080, `serve`: 0.0.0.0:8080"
        ),
    )
    database_url: Secret | None = declare(
        derived.read_database_url,
        Variable(
            "DATABASE_URL",
            "",
            "Postgres, `postgresql://user:password@host/name` (behind PgBouncer with `?statement_cache_size=0`); "
            "unset: an embedded server",
            secret=True,
        ),
    )
    redis_url: Secret | None = declare_secret_url(
        "REDIS_URL",
        ("redis", "rediss", "unix"),
        "Redis or Valkey, `redis://`, `rediss://` or `unix://`; unset: an embedded server",
    )
    data_dir: Path = declare(
        derived.read_data_dir,
        Variable("METERGATE_DATA_DIR", ".metergate", "folder of the embedded servers' data and of generated secrets"),
    )
    spool_dir: Path | None = declare(
        derived.read_spool_dir,
        Variable(
            "METERGATE_SPOOL_DIR",
            "",
            "folder on a local disk for a second copy of debits on their way to Postgres, or `off`; unset: `up`: "
            "`spool` in METERGATE_DATA_DIR, `serve`: none",
        ),
    )
    config_dir: Path | None = declare(
        derived.read_config_dir,
        Variable("METERGATE_CONFIG", "", "folder of the three YAML files; unset: `./config`, else the shipped one"),
    )
    max_body_bytes: int = declare_whole(
        "MAX_BODY_BYTES", 1024**2, 1024, MAX_BYTES, "largest request body of the billing API"
    )
    proxy_max_body_bytes: int = declare_whole(
        "PROXY_MAX_BODY_BYTES", 32 * 1024**2, 1024, MAX_BYTES, "largest request body of the proxy, after decoding"
    )
    request_timeout_s: int = declare_whole(
        "REQUEST_TIMEOUT_SECONDS", 30, 1, 3600, "longest time for one request of the billing API"
    )
    metrics_addr: str | None = declare(
        derived.read_metrics_addr,
        Variable(
            "METRICS_ADDR",
            "",
            "listener of its own for `/metrics`, without a key; `metergate up`: 127.0.0.1:9090, or `off`",
        ),
    )
    metrics_addr_optional: bool = declare(lambda read: read.given("METRICS_ADDR") is None)
    """Whether nobody asked for it."""
    request_log: str | None = declare(
        derived.read_request_log,
        Variable(
            "METERGATE_REQUEST_LOG",
            "",
            "file that gets a line of JSON for each metered request, or `-` for stdout; unset: none",
        ),
    )
    log_format: Literal["text", "json"] = declare(
        derived.read_log_format,
        Variable("METERGATE_LOG_FORMAT", "text", "`text`, or `json`: a line of JSON for each line of the logs"),
    )
    cors_origins: tuple[str, ...] = declare_parsed(
        "CORS_ORIGINS",
        parse_origins,
        "origins such as https://app.example.com, or *",
        (),
        "origins that browsers may call from, separated by commas, or `*`; unset: none",
    )
    frontend_url: str | None = declare_url(
        "FRONTEND_URL", "page where customers ask you for credit or a better plan; refusals name it"
    )
    image: str = declare_text("IMAGE", "full image reference that the container was started from, for `/api/ping`")

    admin_api_key: Secret | None = declare_key(
        "ADMIN_API_KEY", "for `X-Admin-Key`, 24 characters or more; unset: `up` makes one, `serve` refuses admin calls"
    )
    service_api_key: Secret | None = declare_key(
        "SERVICE_API_KEY",
        "for `X-API-Key` of other services, 24 characters or more; unset: they are refused",
    )
    development: bool = declare_parsed(
        "METERGATE_DEVELOPMENT",
        {"0": False, "1": True}.get,
        "0 or 1",
        False,
        "`1`: applications with the client library's middleware take `X-User-Id` for a key; not where others can call",
    )
    trusted_proxies: tuple[Network, ...] = declare_parsed(
        "TRUSTED_PROXIES",
        parse_networks,
        "networks such as 10.0.0.0/8, separated by commas",
        (),
        "networks of your own proxies, `10.0.0.0/8,192.0.2.7`: from them `X-Forwarded-For` is believed",
    )

    auth_base_url: str | None = declare_url(
        "AUTH_BASE_URL",
        "issuer whose `/.well-known/jwks.json` signs users' RS256 tokens; needs AUTH_AUDIENCE",
    )
    auth_audience: str | None = declare_optional("AUTH_AUDIENCE", "audience that tokens of others must be for")
    auth_internal_audience: str | None = declare_optional(
        "AUTH_INTERNAL_AUDIENCE",
        "audience of your own staff: tokens for it may carry an operator's rights",
    )
    auth_cookie_secret: Secret | None = declare_signing_secret(
        "AUTH_COOKIE_SECRET",
        "shared secret of HS256 tokens that another service signs, 32 bytes or more; needs AUTH_AUDIENCE",
    )
    jwt_secret: Secret | None = declare_signing_secret(
        "JWT_SECRET", "signs Metergate's own tokens by HS256, 32 bytes or more; unset: RS256 by keys in Postgres"
    )
    secrets_key: Secret | None = declare_signing_secret(
        "SECRETS_KEY", "encrypts keys that sign and secrets of authenticator apps in Postgres, 32 bytes or more"
    )
    secrets_key_before: Secret | None = declare_signing_secret(
        "SECRETS_KEY_BEFORE", "the SECRETS_KEY before: what it has encrypted is read, and encrypted anew"
    )
    jwt_expiry_hours: int = declare_whole("JWT_EXPIRY_HOURS", 24, 1, 8760, "life of an access token")
    refresh_token_expiry_days: int = declare_whole(
        "REFRESH_TOKEN_EXPIRY_DAYS", 30, 1, 3650, "life of a refresh token; each use gives a new one"
    )

    payment_provider: PaymentProvider | None = declare(
        derived.read_payment_provider,
        Variable(
            "PAYMENT_PROVIDER",
            "",
            "`local` (no money) or `stripe`; unset: stripe if STRIPE_API_KEY is set, else `up`: local, `serve`: none",
        ),
    )
    stripe_api_key: Secret | None = declare(
        derived.read_stripe_key,
        Variable("STRIPE_API_KEY", "", "Stripe's secret or restricted key", secret=True),
        Variable("STRIPE_SECRET_KEY", "", "another name for STRIPE_API_KEY", secret=True),
    )
    stripe_webhook_secret: Secret | None = declare_secret(
        "STRIPE_WEBHOOK_SECRET",
        "signing secrets of Stripe's webhook endpoint, separated by commas; needed to serve with Stripe",
    )
    stripe_api_base: str = declare(
        lambda read: read.url("STRIPE_API_BASE") or "",
        Variable("STRIPE_API_BASE", "https://api.stripe.com", "Stripe's API, or a stand-in for tests"),
    )
    stripe_price_starter: str | None = declare_optional(
        "STRIPE_PRICE_STARTER", "Stripe's price id of the starter plan, where plans.yaml gives none"
    )
    stripe_price_professional: str | None = declare_optional(
        "STRIPE_PRICE_PROFESSIONAL", "Stripe's price id of the professional plan, where plans.yaml gives none"
    )
    stripe_price_enterprise: str | None = declare_optional(
        "STRIPE_PRICE_ENTERPRISE", "Stripe's price id of the enterprise plan, where plans.yaml gives none"
    )
    payment_grace_days: int = declare_whole(
        "PAYMENT_GRACE_DAYS", 10, 0, 365, "days from a failed payment to the downgrade"
    )

    smtp_host: str | None = declare_optional(
        "SMTP_HOST", "mail server; unset: `up` shows mails, `serve` sends none; needs SMTP_FROM"
    )
    smtp_port: int = declare_whole(
        "SMTP_PORT", 587, 1, 65_535, "its port: 465 is TLS from the start; elsewhere TLS begins where it is offered"
    )
    smtp_user: str | None = declare_optional("SMTP_USER", "user name there; needs SMTP_PASSWORD")
    smtp_password: Secret | None = declare_secret(
        "SMTP_PASSWORD", "password there, which is sent over TLS alone; needs SMTP_USER"
    )
    smtp_from: str | None = declare(
        lambda read: read.parsed("SMTP_FROM", derived.mail_address, "an e-mail address", "") or None,
        Variable("SMTP_FROM", "", "sender's address"),
    )
    notification_webhook: Secret | None = declare_secret_url(
        "NOTIFICATION_WEBHOOK", ("https", "http"), "URL that gets the notices of all accounts as JSON"
    )
    notification_webhook_secret: Secret | None = declare_secret(
        "NOTIFICATION_WEBHOOK_SECRET", "what these are signed with (Standard Webhooks); needs NOTIFICATION_WEBHOOK"
    )

    lago_api_url: str | None = declare_url(
        "LAGO_API_URL", "Lago's API; unset: nothing is reported; needs LAGO_API_KEY", served=False
    )
    lago_api_key: Secret | None = declare_secret("LAGO_API_KEY", "key for it", served=False)

    exporter_sources: tuple[ExporterSource, ...] = declare(
        derived.read_exporter_sources,
        Variable(
            "EXPORTER_SOURCES_JSON",
            "",
            "list of sources to collect from, see below; may hold tokens",
            secret=True,
        ),
        Variable("EXPORTER_BASE_URL", "", "a single source, where EXPORTER_SOURCES_JSON is unset"),
    )
    internal_service_token: Secret | None = declare_secret(
        "INTERNAL_SERVICE_TOKEN", "bearer token for sources without a token of their own"
    )
    collect_interval_s: int = declare_parsed(
        "COLLECT_INTERVAL",
        parse_duration_s,
        "a duration from 1s to 24h such as 1m",
        60,
        "time between collections: `90s`, `1m`, `1h30m`",
        "1m",
    )
    default_region: str = declare_text("DEFAULT_REGION", "region of a source that names none")
    source_revision: str = declare_text(
        "SOURCE_REVISION", "revision that collected facts are marked with", "metergate-v1"
    )
    price_per_byte_scaled: int = declare_parsed(
        "PRICE_PER_BYTE",
        derived.parse_per_byte,
        "a decimal with at most 18 decimals",
        0,
        "USD per byte, a decimal with at most 18 decimals",
        "0",
    )
    initial_included_quota_bytes: int = declare_whole(
        "INITIAL_INCLUDED_QUOTA_BYTES",
        0,
        0,
        MAX_NANO,
        "bytes that an account has free, once",
    )
    initial_balance_nano: int = declare_parsed(
        "INITIAL_BALANCE",
        parse_amount,
        "a decimal of USD such as 12.50",
        0,
        "USD that an account starts with when collection first meets it",
        "0",
    )

    api_url: str | None = declare_url("METERGATE_API_URL", "the gateway's address for the commands of end users")
    api_token: Secret | None = declare_secret("METERGATE_API_TOKEN", "token for them, instead of a token file")


VARIABLES_OF: Final[dict[str, tuple[Variable, ...]]] = {
    each.name: each.metadata["variables"] for each in fields(Environment)
}
"""The variables that each field is read from; for some none of their own."""
SETTINGS_VARIABLES: Final = {variable.name: variable for found in VARIABLES_OF.values() for variable in found}
NOT_SERVED: Final = tuple(variable.name for variable in SETTINGS_VARIABLES.values() if not variable.served)
"""Settings that are checked and that this version does not act on: one that is set is a warning at start."""
_NEEDS: Final = (
    *(("AUTH_BASE_URL", "AUTH_AUDIENCE"), ("AUTH_COOKIE_SECRET", "AUTH_AUDIENCE")),
    *(
        ("SMTP_HOST", "SMTP_FROM"),
        ("SECRETS_KEY_BEFORE", "SECRETS_KEY"),
        ("SMTP_USER", "SMTP_PASSWORD"),
        ("SMTP_PASSWORD", "SMTP_USER"),
        ("NOTIFICATION_WEBHOOK_SECRET", "NOTIFICATION_WEBHOOK"),
        ("LAGO_API_URL", "LAGO_API_KEY"),
    ),
)
"""Variables that mean nothing without another one."""


_DIFFER: Final = (("AUTH_COOKIE_SECRET", "JWT_SECRET"), ("AUTH_INTERNAL_AUDIENCE", "AUTH_AUDIENCE"))
"""Who shares the one would have the rights of the other."""
OWN_AUDIENCE: Final = "metergate"


def read_environment(environ: Mapping[str, str], mode: Mode, problems: Problems) -> Environment:
    """Read every variable of `Environment`; what is wrong goes to `problems` and stands as a default here."""
    read = Reader(environ, mode, problems, SETTINGS_VARIABLES)
    environment = Environment(**{each.name: each.metadata["read"](read) for each in fields(Environment)})
    for name, other in _NEEDS:
        read.needs(name, other)
    for name, other in _DIFFER:
        if read.given(name) is not None and read.given(name) == read.given(other):
            problems.add(PLACE, name, f"expected another value than that of {other}")
    if OWN_AUDIENCE in (environment.auth_audience, environment.auth_internal_audience):
        problems.add(PLACE, "AUTH_AUDIENCE", f"expected another audience than {OWN_AUDIENCE}, which is our own tokens'")
    idle = [name for name in NOT_SERVED if read.text(name) != SETTINGS_VARIABLES[name].default]
    if idle:
        problems.note(PLACE, ", ".join(idle), NO_EFFECT)
    return environment


def command_environment(environ: Mapping[str, str]) -> Environment:
    """Read the variables alone, for commands that need no configuration file. Raises `ConfigError`."""
    problems = Problems()
    environment = read_environment(environ, "command", problems)
    problems.refuse()
    return environment
