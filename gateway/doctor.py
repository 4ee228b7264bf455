"""What is wrong with an installation, and how to mend it. Nothing here changes anything, and checks are values.

configuration   the environment and the three files
providers       at least one that is on
prices          a row for every routed model
vocabularies    the tokenizer's files
servers         the embedded ones, where nothing else was given
postgres        reachable, recent, durable, writable, migrated; no debit set aside
redis           reachable, recent, persistent, never evicting, a writable server of its own
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from billing.cli import CommandFailed, Output
from billing.holds.connection import Link, RedisError
from billing.ledger.migrate import pending
from billing.ledger.postgres import Database, DatabaseError
from gateway.embedded import EmbeddedServersError
from gateway.failures import shown_url
from gateway.places import Stores, open_stores
from gateway.settings import ConfigError, Settings, load_settings, unpriced_models, warnings
from gateway.tokens import Tokenizer, VocabularyError

Status = Literal["ok", "warn", "fail"]
OLDEST_POSTGRES: Final = 14
OLDEST_REDIS: Final = (6, 2)
STORE_TIMEOUT_S: Final = 5.0
_POSTGRES: Final = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::integer / 10000 AS major,
    current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,
    pg_is_in_recovery() AS standby"""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `mend` says what to do, and is empty where nothing is to be done."""

    name: str
    status: Status
    message: str
    mend: str = ""


async def diagnose(environ: Mapping[str, str], output: Output) -> tuple[Check, ...]:
    """Every check that can be made; what rests on a failed one is left out."""
    vocabularies = check_vocabularies()
    try:
        settings = load_settings(environ, mode="command")
    except ConfigError as error:
        wrong = [Check("configuration", "fail", str(problem), "Correct it.") for problem in error.problems]
        return (*wrong, vocabularies)
    checks = [*check_settings(settings, time.time()), vocabularies]
    try:
        async with open_stores(settings, output) as stores:
            checks += await check_postgres(stores)
            checks += await check_redis(stores.redis_url)
    except (EmbeddedServersError, CommandFailed) as error:
        checks.append(Check("servers", "fail", str(error)))
    return tuple(checks)


def check_settings(settings: Settings, at_s: float) -> list[Check]:
    """Configuration, providers and prices, at a Unix time."""
    checks = [Check("configuration", "ok", f"{settings.folder} and the environment can be used")]
    on = [provider.name for provider in settings.providers.values() if provider.enabled]
    off = [f"{each.name} ({each.off_reason})" for each in settings.providers.values() if not each.enabled]
    said = f"on: {', '.join(on) or 'none'}" + (f"; off: {', '.join(off)}" if off else "")
    checks.append(
        Check("providers", "ok", said) if on else Check("providers", "fail", said, "Set the key of one of them.")
    )
    if not unpriced_models(settings.models, settings.prices, at_s):
        checks.append(Check("prices", "ok", f"each of {len(settings.models)} models has one"))
    checks += [Check("configuration", "warn", warning) for warning in warnings(settings, at_s)]
    return checks


def check_vocabularies() -> Check:
    """The tokenizer's files: takes up to a second of CPU."""
    tokenizer = Tokenizer()
    try:
        tokenizer.load()
    except VocabularyError as error:
        return Check("vocabularies", "fail", str(error), "Install Metergate again.")
    finally:
        tokenizer.close()
    return Check("vocabularies", "ok", "the tokenizer's files load")


async def check_postgres(stores: Stores) -> list[Check]:
    """The ledger's server."""
    database = Database(stores.database_url, size=1, timeout_s=STORE_TIMEOUT_S)
    where = shown_url(stores.database_url)
    try:
        row = await database.row(_POSTGRES)
        assert row is not None  # noqa: S101  (settings are one row, always)
        missing = await pending(database)
        set_aside = 0 if missing else await database.value("SELECT count(*) FROM debits_set_aside")
    except DatabaseError as error:
        return [Check("postgres", "fail", f"{where}: {error}", "Start it, or correct DATABASE_URL.")]
    finally:
        await database.close()
    checks = [_postgres_version(where, row), _postgres_durability(row), _migrations(missing, stores)]
    if row["standby"]:
        checks.append(Check("postgres role", "fail", "a standby: it can't be written to", "Name the primary."))
    if set_aside:
        said = f"{set_aside} debits that the ledger refused wait in debits_set_aside"
        checks.append(Check("debits", "fail", said, "Read their `reason` there; each is money that was not charged."))
    return checks


def _postgres_version(where: str, row: Any) -> Check:
    said = f"{where}: Postgres {row['version']}"
    if row["major"] < OLDEST_POSTGRES:
        return Check("postgres", "fail", said, f"Metergate needs Postgres {OLDEST_POSTGRES} or later.")
    return Check("postgres", "ok", said)


def _postgres_durability(row: Any) -> Check:
    said = f"synchronous_commit {row['synchronous_commit']}, fsync {row['fsync']}"
    if "off" in (row["synchronous_commit"], row["fsync"]):
        return Check("durability", "fail", said, "Set both to on, or a crash of Postgres loses debits.")
    return Check("durability", "ok", said)


def _migrations(missing: list[str], stores: Stores) -> Check:
    if not missing:
        return Check("migrations", "ok", "the schema is up to date")
    status: Status = "warn" if stores.started_database else "fail"
    return Check(
        "migrations", status, f"missing: {', '.join(missing)}", "Run `metergate migrate`; `up` does it itself."
    )


async def check_redis(url: str) -> list[Check]:
    """The server of holds and balances."""
    where = shown_url(url)
    link = Link(url, timeout_s=STORE_TIMEOUT_S, connect_timeout_s=STORE_TIMEOUT_S)
    try:
        sections = [await link.command("INFO", name) for name in ("server", "persistence", "memory", "replication")]
    except RedisError as error:
        return [Check("redis", "fail", f"{where}: {error}", "Start it, or correct REDIS_URL.")]
    finally:
        await link.close()
    info = {str(name): value for section in sections for name, value in section.items()}
    return redis_findings(where, link.topology, info)


def redis_findings(where: str, topology: str, info: Mapping[str, Any]) -> list[Check]:
    """What follows from what a server says of itself (https://redis.io/docs/latest/commands/info/)."""
    return [_redis_version(where, info), _persistence(info), _eviction(info), _topology(topology, info)]


def _redis_version(where: str, info: Mapping[str, Any]) -> Check:
    spoken = str(info.get("redis_version", "0"))
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {spoken}"
    major, minor = (int(part) for part in (*spoken.split("."), "0")[:2])
    if (major, minor) < OLDEST_REDIS:
        return Check("redis", "fail", f"{where}: {name}", "Metergate needs Redis 6.2 or later, or Valkey.")
    return Check("redis", "ok", f"{where}: {name}")


def _persistence(info: Mapping[str, Any]) -> Check:
    if info.get("aof_enabled"):
        return Check("persistence", "ok", "appendonly yes")
    mend = "Set appendonly yes: debits on their way to Postgres are then kept over a restart."
    return Check("persistence", "warn", "appendonly no", mend)


def _eviction(info: Mapping[str, Any]) -> Check:
    policy = str(info.get("maxmemory_policy", "unknown"))
    if policy == "noeviction":
        return Check("eviction", "ok", "maxmemory-policy noeviction")
    status: Status = "fail" if info.get("maxmemory") else "warn"
    mend = "Set maxmemory-policy noeviction: an evicted balance or journal is lost."
    return Check("eviction", status, f"maxmemory-policy {policy}", mend)


def _topology(topology: str, info: Mapping[str, Any]) -> Check:
    role = str(info.get("role", "master"))
    said = f"{topology}, {role}, {info.get('connected_slaves', 0)} replicas"
    if info.get("redis_mode") == "sentinel":
        return Check("topology", "fail", said, "Name the server itself in REDIS_URL, not its Sentinel.")
    if role != "master":
        return Check("topology", "fail", said, "Name the primary in REDIS_URL: a replica can't be written to.")
    return Check("topology", "ok", said)
