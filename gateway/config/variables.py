"""Every environment variable as data: `.env.example` and the table in `docs/configuration.md` are checked against it.

A variable that is set to nothing counts as unset, so that `NAME=` in an environment file means the default.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Variable:
    """`default` is the text that an unset variable stands for, empty where there is none."""

    name: str
    default: str
    help: str
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Variables that belong together, under one heading of `.env.example` and the documentation."""

    title: str
    variables: tuple[Variable, ...]


def _secret(name: str, text: str) -> Variable:
    return Variable(name, "", text, secret=True)


SETTINGS_GROUPS: Final = (
    Group(
        "Gateway",
        (
            Variable(
                "LISTEN_ADDR", "", "address and port to listen on; unset: `up`: 127.0.0.1:8080, `serve`: 0.0.0.0:8080"
            ),
            _secret(
                "DATABASE_URL",
                "Postgres, `postgresql://user:password@host/name` (behind PgBouncer with `?statement_cache_size=0`); "
                "unset: an embedded server",
            ),
            _secret("REDIS_URL", "Redis or Valkey, `redis://`, `rediss://` or `unix://`; unset: an embedded server"),
            Variable(
                "METERGATE_DATA_DIR", ".metergate", "folder of the embedded servers' data and of generated secrets"
            ),
            Variable(
                "METERGATE_SPOOL_DIR",
                "",
                "folder on a local disk for a second copy of debits on their way to Postgres, or `off`; unset: `up`: "
                "`spool` in METERGATE_DATA_DIR, `serve`: none",
            ),
            Variable("METERGATE_CONFIG", "", "folder of the three YAML files; unset: `./config`, else the shipped one"),
            Variable("MAX_BODY_BYTES", "1048576", "largest request body of the billing API"),
            Variable("PROXY_MAX_BODY_BYTES", "33554432", "largest request body of the proxy, after decoding"),
            Variable("REQUEST_TIMEOUT_SECONDS", "30", "longest time for one request of the billing API"),
            Variable(
                "METRICS_ADDR",
                "",
                "listener of its own for `/metrics`, without a key; `metergate up`: 127.0.0.1:9090, or `off`",
            ),
            Variable(
                "METERGATE_REQUEST_LOG",
                "",
                "file that gets a line of JSON for each metered request, or `-` for stdout; unset: none",
            ),
            Variable(
                "CORS_ORIGINS", "", "origins that browsers may call from, separated by commas, or `*`; unset: none"
            ),
            Variable("FRONTEND_URL", "", "page where customers ask you for credit or a better plan; refusals name it"),
            Variable("IMAGE", "", "full image reference that the container was started from, for `/api/ping`"),
        ),
    ),
    Group(
        "Keys of operators and services",
        (
            _secret(
                "ADMIN_API_KEY",
                "for `X-Admin-Key`, 24 characters or more; unset: `up` makes one, `serve` refuses admin calls",
            ),
            _secret(
                "SERVICE_API_KEY", "for `X-API-Key` of other services, 24 characters or more; unset: they are refused"
            ),
            Variable(
                "TRUSTED_PROXIES",
                "",
                "networks of your own proxies, `10.0.0.0/8,192.0.2.7`: from them `X-Forwarded-For` is believed",
            ),
        ),
    ),
    Group(
        "Sign-in",
        (
            Variable(
                "AUTH_BASE_URL",
                "",
                "issuer whose `/.well-known/jwks.json` signs users' RS256 tokens; needs AUTH_AUDIENCE",
            ),
            Variable("AUTH_AUDIENCE", "", "audience that those tokens must be for"),
            _secret("AUTH_COOKIE_SECRET", "shared secret of HS256 tokens that another service signs"),
            _secret(
                "JWT_SECRET", "signs Metergate's own tokens, 32 characters or more; unset: made in the data folder"
            ),
            Variable("JWT_EXPIRY_HOURS", "24", "life of an access token"),
            Variable("REFRESH_TOKEN_EXPIRY_DAYS", "30", "life of a refresh token"),
        ),
    ),
    Group(
        "Payments",
        (
            Variable("PAYMENT_PROVIDER", "", "`local` or `stripe`; unset: stripe if STRIPE_API_KEY is set, else local"),
            _secret("STRIPE_API_KEY", "Stripe's secret or restricted key"),
            _secret("STRIPE_SECRET_KEY", "another name for STRIPE_API_KEY"),
            _secret(
                "STRIPE_WEBHOOK_SECRET", "signing secret of Stripe's webhook endpoint; needed to serve with Stripe"
            ),
            Variable("STRIPE_API_BASE", "https://api.stripe.com", "Stripe's API, or a stand-in for tests"),
            Variable("STRIPE_PRICE_STARTER", "", "Stripe's price id of the starter plan"),
            Variable("STRIPE_PRICE_PROFESSIONAL", "", "Stripe's price id of the professional plan"),
            Variable("STRIPE_PRICE_ENTERPRISE", "", "Stripe's price id of the enterprise plan"),
            Variable("PAYMENT_GRACE_DAYS", "10", "days from a failed payment to the downgrade"),
        ),
    ),
    Group(
        "Notices",
        (
            Variable("SMTP_HOST", "", "mail server; unset: no mail is sent; needs SMTP_FROM"),
            Variable("SMTP_PORT", "587", "its port"),
            Variable("SMTP_USER", "", "user name there"),
            _secret("SMTP_PASSWORD", "password there"),
            Variable("SMTP_FROM", "", "sender's address"),
            _secret("NOTIFICATION_WEBHOOK", "URL that gets notices as JSON"),
        ),
    ),
    Group(
        "Usage reporting to Lago",
        (
            Variable("LAGO_API_URL", "", "Lago's API; unset: nothing is reported; needs LAGO_API_KEY"),
            _secret("LAGO_API_KEY", "key for it"),
        ),
    ),
    Group(
        "Collecting traffic from exporters",
        (
            _secret("EXPORTER_SOURCES_JSON", "list of sources to collect from, see below; may hold tokens"),
            Variable("EXPORTER_BASE_URL", "", "a single source, where EXPORTER_SOURCES_JSON is unset"),
            _secret("INTERNAL_SERVICE_TOKEN", "bearer token for sources without a token of their own"),
            Variable("COLLECT_INTERVAL", "1m", "time between collections: `90s`, `1m`, `1h30m`"),
            Variable("DEFAULT_REGION", "", "region of a source that names none"),
            Variable("SOURCE_REVISION", "metergate-v1", "revision that collected facts are marked with"),
            Variable("PRICE_PER_BYTE", "0", "USD per byte, a decimal with at most 18 decimals"),
            Variable("INITIAL_INCLUDED_QUOTA_BYTES", "0", "bytes that a new account has free"),
            Variable("INITIAL_BALANCE", "0", "USD that a new account found by collection starts with"),
        ),
    ),
    Group(
        "Command line against a gateway elsewhere",
        (
            Variable("METERGATE_API_URL", "", "the gateway's address for the commands of end users"),
            _secret("METERGATE_API_TOKEN", "token for them, instead of a token file"),
        ),
    ),
)
"""The variables that `environment.py` reads."""

FILE_GROUP: Final = Group(
    "Provider keys (config/metergate.yaml refers to them; a provider without its key is off)",
    (
        _secret("OPENAI_API_KEY", "OpenAI"),
        _secret("ANTHROPIC_API_KEY", "Anthropic"),
        _secret("GEMINI_API_KEY", "Google Gemini"),
        _secret("DEEPSEEK_API_KEY", "DeepSeek"),
        _secret("OPENROUTER_API_KEY", "OpenRouter"),
    ),
)
"""The variables that the shipped YAML files refer to and that are no setting of their own."""

COMPOSE_GROUP: Final = Group(
    "docker-compose.yml alone",
    (
        _secret("POSTGRES_PASSWORD", "password of the bundled Postgres; letters, digits, `-` and `_`"),
        _secret("VALKEY_PASSWORD", "password of the bundled Valkey; letters, digits, `-` and `_`"),
        Variable("METERGATE_PORT", "8080", "port of this machine that the gateway is published on"),
        Variable("POSTGRES_IMAGE", "postgres:17-alpine", "image of Postgres; pin it by its digest, `name@sha256:...`"),
        Variable("VALKEY_IMAGE", "valkey/valkey:8-alpine", "image of Valkey, likewise"),
        Variable("PYTHON_IMAGE", "python:3.12-slim", "image that the gateway's is built on, likewise"),
    ),
)
"""The variables of the compose file."""

GROUPS: Final = (*SETTINGS_GROUPS, FILE_GROUP, COMPOSE_GROUP)
SETTINGS_VARIABLES: Final = {variable.name: variable for group in SETTINGS_GROUPS for variable in group.variables}
VARIABLES: Final = tuple(variable for group in GROUPS for variable in group.variables)
NOT_SERVED: Final = (
    *(
        "AUTH_BASE_URL",
        "AUTH_AUDIENCE",
        "AUTH_COOKIE_SECRET",
        "JWT_SECRET",
        "JWT_EXPIRY_HOURS",
        "REFRESH_TOKEN_EXPIRY_DAYS",
    ),
    *("SERVICE_API_KEY", "METERGATE_API_TOKEN"),
    *("PAYMENT_PROVIDER", "STRIPE_API_KEY", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_API_BASE"),
    *("STRIPE_PRICE_STARTER", "STRIPE_PRICE_PROFESSIONAL", "STRIPE_PRICE_ENTERPRISE"),
    *(
        "SMTP_HOST",
        "SMTP_PORT",
        "SMTP_USER",
        "SMTP_PASSWORD",
        "SMTP_FROM",
        "NOTIFICATION_WEBHOOK",
        "LAGO_API_URL",
        "LAGO_API_KEY",
    ),
    *(
        "EXPORTER_SOURCES_JSON",
        "EXPORTER_BASE_URL",
        "INTERNAL_SERVICE_TOKEN",
        "COLLECT_INTERVAL",
        "DEFAULT_REGION",
        "SOURCE_REVISION",
    ),
    *("PRICE_PER_BYTE", "INITIAL_INCLUDED_QUOTA_BYTES", "INITIAL_BALANCE"),
)
"""Settings that are checked and that this version does not act on: one that is set is a warning at start."""
