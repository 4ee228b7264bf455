"""The environment's variables, each declared once: `Environment` has what is read, its fields' metadata say how. Those
of the gateway itself stand in `server_variables`; here are those of payments, mail, reports and commands.

`.env.example`, the documentation's tables and the warning about what has no effect go by the same declarations
(`gateway.config.settings`). A wrong value is a problem of `environment` under the variable's name; a secret's text is
never shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from billing.money import MAX_NANO
from gateway.config import derived
from gateway.config.derived import ExporterSource, PaymentProvider
from gateway.config.problems import Problems
from gateway.config.reader import (
    PLACE,
    Mode,
    Reader,
    Variable,
    declare,
    declare_optional,
    declare_parsed,
    declare_secret,
    declare_secret_url,
    declare_text,
    declare_url,
    declare_whole,
    parse_amount,
    parse_duration_s,
)
from gateway.config.secret import Secret
from gateway.config.server_variables import ServerVariables


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment(ServerVariables):
    """All variables, typed, in the order in which users find them. Amounts in nano-USD; `price_per_byte_scaled` in
    nano-USD per byte times `pricing.scales.FACTOR_SCALE`; URLs without a slash at their end; `..._addr` are
    `HOST:PORT`."""

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
        "LAGO_API_URL", "Lago's API, which usage is told; unset: none; needs LAGO_API_KEY"
    )
    lago_api_key: Secret | None = declare_secret("LAGO_API_KEY", "key for it")

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


# The variables that each field is read from; for some none of their own.
VARIABLES_OF: Final[dict[str, tuple[Variable, ...]]] = {
    each.name: each.metadata["variables"] for each in fields(Environment)
}
SETTINGS_VARIABLES: Final = {variable.name: variable for found in VARIABLES_OF.values() for variable in found}
# Variables that mean nothing without another one.
_NEEDS: Final = (
    ("AUTH_BASE_URL", "AUTH_AUDIENCE"),
    ("AUTH_COOKIE_SECRET", "AUTH_AUDIENCE"),
    ("SMTP_HOST", "SMTP_FROM"),
    ("SECRETS_KEY_BEFORE", "SECRETS_KEY"),
    ("SMTP_USER", "SMTP_PASSWORD"),
    ("SMTP_PASSWORD", "SMTP_USER"),
    ("NOTIFICATION_WEBHOOK_SECRET", "NOTIFICATION_WEBHOOK"),
    ("LAGO_API_URL", "LAGO_API_KEY"),
)


# Who shares the one would have the rights of the other.
_DIFFER: Final = (("AUTH_COOKIE_SECRET", "JWT_SECRET"), ("AUTH_INTERNAL_AUDIENCE", "AUTH_AUDIENCE"))
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
    return environment


def command_environment(environ: Mapping[str, str]) -> Environment:
    """Read the variables alone, for commands that need no configuration file. Raises `ConfigError`."""
    problems = Problems()
    environment = read_environment(environ, "command", problems)
    problems.refuse()
    return environment
