"""The variables that every gateway has: where it listens, its stores, its bounds and logs, its keys, who signs tokens.

`gateway.config.environment` adds those of what a gateway may do beside serving, and reads all of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from billing.addresses import Network, parse_networks
from gateway.config import derived
from gateway.config.reader import (
    Variable,
    declare,
    declare_key,
    declare_optional,
    declare_parsed,
    declare_secret_url,
    declare_signing_secret,
    declare_text,
    declare_url,
    declare_whole,
    parse_origins,
)
from gateway.config.secret import Secret

MAX_BYTES: Final = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerVariables:
    """The variables of the gateway itself, typed. URLs without a slash at their end; `..._addr` are `HOST:PORT`."""

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
    """Whether this is the default."""
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
