"""The environment's variables, each declared once: `Environment` has what is read, its fields' metadata say how.
Parsers are pure.

`.env.example`, the documentation's tables and the warning about what has no effect go by the same declarations
(`gateway.config.settings`). A wrong value is a problem of `environment` under the variable's name; a secret's text is
never shown.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar, cast
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Meta, Struct, structs

from billing.addresses import Network, parse_networks
from billing.database.urls import split_url
from billing.money import MAX_NANO, parse_usd
from billing.payments.stripe.objects import KEY_EXPECTED, LIVE_KEYS, TEST_KEYS
from billing.pricing import FACTOR_SCALE
from gateway.config.secret import KEY_CHARACTERS, MAKE_A_KEY, SIGNING_BYTES, Secret, long_enough
from gateway.config.source import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

T = TypeVar("T")
# Who reads: some defaults are those of one command, and some values are needed to serve alone.
Mode = Literal["serve", "up", "command"]
PLACE: Final = "environment"
_DURATION: Final = re.compile(r"(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,7})s?)?", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable as users know it. `default` is the text that an unset one stands for, empty where there is none."""

    name: str
    default: str
    help: str
    secret: bool = False


class Reader:
    """Reads variables by name, and notes what is wrong with them. A variable that is set to nothing counts as unset, so
    that `NAME=` in an environment file means the default."""

    def __init__(
        self, environ: Mapping[str, str], mode: Mode, problems: Problems, variables: Mapping[str, Variable]
    ) -> None:
        self.mode, self.problems, self.seen = mode, problems, set[str]()
        self._environ, self._variables = environ, variables

    def given(self, name: str) -> str | None:
        """Return what the environment says, without blanks around it; None when unset or set to nothing."""
        self.seen.add(name)
        return self._environ.get(name, "").strip() or None

    def text(self, name: str) -> str:
        """Return the variable's text, or its default."""
        return self.given(name) or self._variables[name].default

    def maybe(self, name: str) -> str | None:
        """Return the same, None where it is empty."""
        return self.text(name) or None

    def secret(self, name: str) -> Secret | None:
        """Return a secret as it is given."""
        text = self.given(name)
        return None if text is None else Secret(text)

    def key(self, name: str) -> Secret | None:
        """Return a secret that anybody who reaches the gateway may try to guess; a problem where it is short."""
        secret = self.secret(name)
        if secret is not None and not long_enough(secret):
            self.problems.add(PLACE, name, f"expected at least {KEY_CHARACTERS} characters; {MAKE_A_KEY} makes some")
        return secret

    def signing_secret(self, name: str) -> Secret | None:
        """Return a secret by which tokens are signed, which whoever has one token may try to guess; a problem where it
        is short."""
        secret = self.secret(name)
        if secret is not None and len(secret.reveal().encode()) < SIGNING_BYTES:
            self.problems.add(PLACE, name, f"expected at least {SIGNING_BYTES} bytes; {MAKE_A_KEY} makes some")
        return secret

    def wrong(self, name: str, expected: str) -> None:
        """Record that a variable is wrong; its value is shown unless it is a secret."""
        shown = "" if self._variables[name].secret else f', got "{self.text(name)[:60]}"'
        self.problems.add(PLACE, name, f"expected {expected}{shown}")

    def parsed(self, name: str, parse: Callable[[str], T | None], expected: str, fallback: T) -> T:
        """Return a variable by a parser that gives None for a wrong text; `fallback` for that and for an empty one."""
        text = self.text(name)
        value = parse(text) if text else fallback
        if value is None:
            self.wrong(name, expected)
            return fallback
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`."""

        def parse(text: str) -> int | None:
            return int(text) if re.fullmatch(r"[0-9]{1,18}", text) and low <= int(text) <= high else None

        return self.parsed(name, parse, f"a whole number from {low} to {high}", low)

    def url(self, name: str, schemes: Collection[str] = ("https", "http")) -> str | None:
        """Return a URL without a slash at its end, or None."""

        def parse(text: str) -> str | None:
            return text.rstrip("/") if is_url(text, schemes) else None

        return self.parsed(name, parse, f"a URL that begins with {' or '.join(f'{s}://' for s in schemes)}", "") or None

    def secret_url(self, name: str, schemes: Collection[str]) -> Secret | None:
        """Return a URL that may hold a password."""
        url = self.url(name, schemes)
        return None if url is None else Secret(url)

    def needs(self, name: str, other: str) -> None:
        """Note a problem when `name` is set without `other`."""
        if self.given(name) is not None and self.given(other) is None:
            self.problems.add(PLACE, other, f"expected a value, because {name} is set")


def declare(how: Callable[[Reader], object], *variables: Variable) -> Any:
    """Declare a field that is read by `how`, out of variables that no other field declares."""
    return field(metadata={"read": how, "variables": variables})


def _declaring(how: Callable[[Reader, str], object], *, secret: bool = False) -> Callable[..., Any]:
    """Return what declares a field of one variable, which is read by `how`."""

    def declare_one(name: str, help_text: str, default: str = "") -> Any:
        return declare(lambda read: how(read, name), Variable(name, default, help_text, secret))

    return declare_one


# Declares a text; an unset one without a default is empty.
declare_text = _declaring(Reader.text)
# Declares a text that is None when unset.
declare_optional = _declaring(Reader.maybe)
# Declares an http(s) URL, without a slash at its end.
declare_url = _declaring(Reader.url)
declare_secret = _declaring(Reader.secret, secret=True)
# Declares a secret that anybody who reaches the gateway may try to guess.
declare_key = _declaring(Reader.key, secret=True)
# Declares a secret by which tokens are signed.
declare_signing_secret = _declaring(Reader.signing_secret, secret=True)


def declare_secret_url(name: str, schemes: Collection[str], help_text: str) -> Any:
    """Declare a URL of one of `schemes` that may hold a password."""
    variable = Variable(name, "", help_text, secret=True)
    return declare(lambda read: read.secret_url(name, schemes), variable)


def declare_whole(name: str, default: int, low: int, high: int, help_text: str) -> Any:
    """Declare a whole number from `low` to `high`."""
    return declare(lambda read: read.whole(name, low, high), Variable(name, str(default), help_text))


def declare_parsed(
    name: str,
    parse: Callable[[str], object],
    expected: str,
    fallback: object,
    help_text: str,
    default: str = "",
) -> Any:
    """Declare a variable with a parser, which gives None for a wrong text: `fallback` is taken, `expected` shown."""
    return declare(lambda read: read.parsed(name, parse, expected, fallback), Variable(name, default, help_text))


def is_url(text: str, schemes: Collection[str] = ("https", "http")) -> bool:
    """Return whether a text is an absolute URL of one of these schemes with a host and no blanks. A socket's folder may
    stand in its place: as the path of `unix:`, or as Postgres's `?host=/folder`."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    socket = parse_qs(parts.query).get("host", [""])[0].startswith("/")
    target = parts.path if parts.scheme == "unix" else parts.hostname or socket
    return parts.scheme in schemes and bool(target) and not any(c.isspace() or not c.isprintable() for c in text)


def parse_listen(text: str) -> tuple[str, int] | None:
    """Return host and port of `0.0.0.0:8080`, `:8080`, `[::1]:8080` or `name:8080`; None for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        return None
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        except ValueError:
            return None
    if host and not _HOST.fullmatch(host):
        return None
    return host or "0.0.0.0", int(port)  # noqa: S104 - what an address without a host means everywhere


def joined_address(host: str, port: int) -> str:
    """Return `HOST:PORT`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_duration_s(text: str) -> int | None:
    """Return whole seconds, 1 to 86,400, of `90`, `90s`, `1m`, `1h30m`; None for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total_s = hours * 3600 + minutes * 60 + seconds
    return total_s if 1 <= total_s <= 86_400 else None


def parse_amount(text: str) -> int | None:
    """Return nano-USD of a decimal of USD that is not below zero; None for anything else."""
    try:
        nano = parse_usd(text)
    except ValueError:
        return None
    return nano if nano >= 0 else None


def parse_origins(text: str) -> tuple[str, ...] | None:
    """Return origins (RFC 6454: scheme, host, port) separated by commas, or `*` alone; None for anything else."""
    origins = tuple(origin.strip() for origin in text.split(",") if origin.strip())
    plain = all(is_url(origin) and origin.count("/") == 2 for origin in origins)
    return origins if origins == ("*",) or plain else None


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


MAX_BYTES: Final = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """All variables, typed, in the order in which users find them. Amounts in nano-USD; `price_per_byte_scaled` in
    nano-USD per byte times `billing.pricing.FACTOR_SCALE`; URLs without a slash at their end; `..._addr` are
    `HOST:PORT`."""

    listen_addr: str = declare(
        read_listen_addr,
        Variable(
            "LISTEN_ADDR", "", "address and port to listen on; unset: `up`: 127.0.0.1:8080, `serve`: 0.0.0.0:8080"
        ),
    )
    database_url: Secret | None = declare(
        read_database_url,
        Variable(
            "DATABASE_URL",
            "",
            "Postgres, `postgresql://user:password@host/name` (behind PgBouncer with `?statement_cache_size=0`); "
            "unset: an embedded server",
            secret=True,
        ),
    )
    database_replica_url: Secret | None = declare_secret_url(
        "DATABASE_REPLICA_URL",
        ("postgresql", "postgres"),
        "streaming replica of Postgres, which reports are read from; unset: none",
    )
    redis_url: Secret | None = declare_secret_url(
        "REDIS_URL",
        ("redis", "rediss", "unix"),
        "Redis or Valkey, `redis://`, `rediss://` or `unix://`; unset: an embedded server",
    )
    data_dir: Path = declare(
        read_data_dir,
        Variable("METERGATE_DATA_DIR", ".metergate", "folder of the embedded servers' data and of generated secrets"),
    )
    spool_dir: Path | None = declare(
        read_spool_dir,
        Variable(
            "METERGATE_SPOOL_DIR",
            "",
            "folder on a local disk for a second copy of debits on their way to Postgres, or `off`; unset: `up`: "
            "`spool` in METERGATE_DATA_DIR, `serve`: none",
        ),
    )
    config_dir: Path | None = declare(
        read_config_dir,
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
        read_metrics_addr,
        Variable(
            "METRICS_ADDR",
            "",
            "listener of its own for `/metrics`, without a key; `metergate up`: 127.0.0.1:9090, or `off`",
        ),
    )
    metrics_addr_optional: bool = declare(lambda read: read.given("METRICS_ADDR") is None)
    """Whether this is the default."""
    request_log: str | None = declare(
        read_request_log,
        Variable(
            "METERGATE_REQUEST_LOG",
            "",
            "file that gets a line of JSON for each metered request, or `-` for stdout; unset: none",
        ),
    )
    log_format: Literal["text", "json"] = declare(
        read_log_format,
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
        read_payment_provider,
        Variable(
            "PAYMENT_PROVIDER",
            "",
            "`local` (no money) or `stripe`; unset: stripe if STRIPE_API_KEY is set, else `up`: local, `serve`: none",
        ),
    )
    stripe_api_key: Secret | None = declare(
        read_stripe_key,
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
        lambda read: read.parsed("SMTP_FROM", mail_address, "an e-mail address", "") or None,
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
        read_exporter_sources,
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
        parse_per_byte,
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
