"""What is wrong with an installation, and how to mend it. Nothing here changes anything, and checks are values.

configuration   the environment and the three files, and which are in force; models, plans, secrets, metrics, disk:
                `gateway.commands.checks`
providers       at least one that is on; whether they answer and take our keys, where that is asked for
prices          a row for every routed model
vocabularies    the tokenizer's files
servers         the embedded ones, where nothing else was given
postgres        reachable, recent, durable, writable, migrated; no debit set aside
plans           which revision is in force, and whether it is this file's
redis           reachable, recent, persistent, never evicting, a writable server of its own; of a cluster every server,
                and that it serves all slots and replaces a master sooner than a gateway counts as dead
clocks          those of both stores, and how far they are apart
"""

import asyncio
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from billing.cli import CommandFailed, Output
from billing.database.connection import Database, DatabaseError
from billing.database.migrate import pending
from billing.holds.redis import NO_EVICTION, RedisClient, RedisError, Server, Shard
from billing.holds.redis_errors import RedisStrange
from gateway.commands.checks import Check, Status, configuration_checks
from gateway.commands.clocks import clock_finding, redis_ahead_s
from gateway.commands.failures import shown_url
from gateway.commands.provider_checks import check_providers
from gateway.commands.stores import Stores, open_stores
from gateway.config.plan_files import plans_finding
from gateway.config.settings import ConfigError, Settings, in_force, load_settings, unpriced_models, warnings
from gateway.embedded import EmbeddedServersError
from gateway.tokens import Tokenizer, VocabularyError

Told = Mapping[str, Any] | RedisError
"""What a Redis server says of itself and its cluster, or why it says nothing."""
OLDEST_POSTGRES: Final = 14
OLDEST_REDIS: Final = (6, 2)
STORE_TIMEOUT_S: Final = 5.0
SLOTS: Final = 16384
LEAST_MASTERS: Final = 3
"""Of fewer no majority is left to vote for a replica once one has died."""
NOTICE_SHARE: Final = 1.5
"""Of cluster-node-timeout: a server is asked for a sign of life after half of it, and given up a whole one later."""
ELECTION_S: Final = 2.0
"""From a master that is given up to its replica as master: up to a second of waiting, the votes, and word of it."""
_POSTGRES: Final = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::integer / 10000 AS major,
    current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,
    pg_is_in_recovery() AS standby"""


async def diagnose(environ: Mapping[str, str], output: Output, *, providers: bool = False) -> tuple[Check, ...]:
    """Every check that can be made; what rests on a failed one is left out. With `providers` each is called once."""
    vocabularies = check_vocabularies()
    try:
        settings = load_settings(environ, mode="command")
    except ConfigError as error:
        wrong = [Check("configuration", "fail", str(problem), "Correct it.") for problem in error.problems]
        return (*wrong, vocabularies)
    checks = [*check_settings(settings, time.time()), *configuration_checks(settings), vocabularies]
    if providers:
        checks += await check_providers(settings.providers.values(), output.common.timeout_s)
    try:
        async with open_stores(settings, output) as stores:
            checks += await check_postgres(stores)
            checks += await check_plans(stores, settings)
            checks += await check_redis(stores.redis_url, settings.defaults.lease_s)
            checks += await check_clocks(stores)
    except (EmbeddedServersError, CommandFailed) as error:
        checks.append(Check("servers", "fail", str(error)))
    return tuple(checks)


def check_settings(settings: Settings, at_s: float) -> list[Check]:
    """Configuration, providers and prices, at a Unix time."""
    checks = [Check("configuration", "ok", f"in force: the environment, and {in_force(settings)}")]
    on = [provider.name for provider in settings.providers.values() if provider.enabled]
    off = [f"{each.name} ({each.off_reason})" for each in settings.providers.values() if not each.enabled]
    said = f"on: {', '.join(on) or 'none'}" + (f"; off: {', '.join(off)}" if off else "")
    checks.append(
        Check("providers", "ok", said) if on else Check("providers", "fail", said, "Set the key of one of them.")
    )
    if not unpriced_models(settings.models, settings.prices, at_s):
        checks.append(Check("prices", "ok", f"each of {len(settings.models)} models has one"))
    checks += [
        Check("configuration", "warn", warning, "Change it, unless it is meant so.")
        for warning in warnings(settings, at_s)
    ]
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
        checks.append(
            Check(
                "debits",
                "fail",
                said,
                "`metergate ledger set-aside list` says why; each is money that was not charged.",
            )
        )
    return checks


async def check_plans(stores: Stores, settings: Settings) -> list[Check]:
    """Whether this file of plans is the one in force; nothing before there is one."""
    database = Database(stores.database_url, size=1, timeout_s=STORE_TIMEOUT_S)
    try:
        return [Check("plans", *found) for found in await plans_finding(database, settings)]
    except DatabaseError:  # said already
        return []
    finally:
        await database.close()


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


async def check_redis(url: str, lease_s: float) -> list[Check]:
    """The server of holds and balances, or the servers of their cluster, which must replace a master in `lease_s`."""
    where = shown_url(url)
    try:
        link = RedisClient(url, timeout_s=STORE_TIMEOUT_S, connect_timeout_s=STORE_TIMEOUT_S)
    except RedisError as error:
        return [_away(where, error)]
    try:
        shards = await link.shards()
        servers = [server for shard in shards for server in (shard.master, *shard.replicas)]
        told = dict(zip(servers, await asyncio.gather(*map(_told, servers)), strict=True))
    except RedisError as error:
        return [_away(where, error)]
    finally:
        await link.close()
    alone = told[servers[0]]
    if len(servers) == 1 and isinstance(alone, RedisError):
        return [_away(where, alone)]
    if len(servers) == 1 and not isinstance(alone, RedisError) and not alone.get("cluster_enabled"):
        return redis_findings(where, link.topology, alone)
    return [*_of_servers(told, lease_s), *_of_shards(link.topology, shards)]


async def _told(server: Server) -> Told:
    told: dict[str, Any] = {}
    try:
        for section in ("server", "persistence", "memory", "replication", "cluster"):
            told |= await server.command("INFO", section)
        if told.get("cluster_enabled"):
            told |= await server.command("CLUSTER INFO")
            with suppress(RedisError):  # who runs Redis for others often keeps its configuration to himself
                told |= await server.command("CONFIG GET", "cluster-*")
    except RedisError as error:
        return error
    return told


def _away(where: str, error: RedisError) -> Check:
    wrong = isinstance(error, RedisStrange)
    mend = "Correct REDIS_URL: its address, user, password and options." if wrong else "Start it, or correct REDIS_URL."
    return Check("redis", "fail", f"{where}: {error}", mend)


def redis_findings(where: str, topology: str, info: Mapping[str, Any]) -> list[Check]:
    """What follows from what a server says of itself (https://redis.io/docs/latest/commands/info/)."""
    version = _redis_version(info)
    version = replace(version, message=f"{where}: {version.message}")
    return [version, _persistence(info), _eviction(info), _topology(topology, info)]


def _redis_version(info: Mapping[str, Any]) -> Check:
    spoken = str(info.get("redis_version", "0"))
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {spoken}"
    major, minor = ([int(part) for part in re.findall(r"\d+", spoken)] + [0, 0])[:2]
    if (major, minor) < OLDEST_REDIS:
        return Check("redis", "fail", name, "Metergate needs Redis 6.2 or later, or Valkey.")
    return Check("redis", "ok", name)


def _persistence(info: Mapping[str, Any]) -> Check:
    if info.get("aof_enabled"):
        return Check("persistence", "ok", "appendonly yes")
    mend = "Set appendonly yes: debits on their way to Postgres are then kept over a restart."
    return Check("persistence", "warn", "appendonly no", mend)


def _eviction(info: Mapping[str, Any]) -> Check:
    policy = str(info.get("maxmemory_policy", "unknown"))
    if policy == NO_EVICTION:
        return Check("eviction", "ok", f"maxmemory-policy {NO_EVICTION}")
    status: Status = "warn" if policy == "unknown" else "fail"
    mend = "Set maxmemory-policy noeviction: an evicted balance or journal is lost, and no gateway starts."
    return Check("eviction", status, f"maxmemory-policy {policy}", mend)


def _topology(topology: str, info: Mapping[str, Any]) -> Check:
    role = str(info.get("role", "master"))
    said = f"{topology}, {role}, {info.get('connected_slaves', 0)} replicas"
    if info.get("redis_mode") == "sentinel":
        return Check("topology", "fail", said, "Name the server itself in REDIS_URL, not its Sentinel.")
    if role != "master":
        return Check("topology", "fail", said, "Name the primary in REDIS_URL: a replica can't be written to.")
    return Check("topology", "ok", said)


def _of_servers(told: Mapping[Server, Told], lease_s: float) -> list[Check]:
    """One finding for all servers of a cluster that say the same: a replica is the master of tomorrow."""
    who: dict[Check, list[str]] = {}
    for server, info in told.items():
        for check in _of_node(info, lease_s):
            who.setdefault(check, []).append(server.name)
    names = list(dict.fromkeys(check.name for check in who))
    found = sorted(who.items(), key=lambda each: names.index(each[0].name))
    return [replace(check, message=f"{_whose(check, at, len(told))}: {check.message}") for check, at in found]


def _whose(check: Check, servers: Sequence[str], count: int) -> str:
    if len(servers) == count:
        return "every server"
    return f"{len(servers)} servers" if check.status == "ok" else ", ".join(servers)


def _of_node(info: Told, lease_s: float) -> Iterable[Check]:
    if isinstance(info, RedisError):
        yield Check("redis", "fail", f"{info}", "Start it; if it was a master and stays away, promote its replica.")
        return
    yield from (_redis_version(info), _persistence(info), _eviction(info))
    yield from (_cluster_state(info), _coverage(info), _failover(info, lease_s))
    if info.get("role") != "master" and info.get("master_link_status") != "up":
        mend = "See in its log why: until it follows, its master has no replica that is up to date."
        yield Check("replicas", "warn", "does not follow its master", mend)


def _cluster_state(info: Mapping[str, Any]) -> Check:
    state, served = info.get("cluster_state"), int(info.get("cluster_slots_ok", 0))
    said = f"cluster_state {state}, {served} of {SLOTS} slots served"
    if int(info.get("cluster_slots_assigned", 0)) < SLOTS:
        return Check("cluster", "fail", said, "Give every slot to a master: CLUSTER SLOTS says which ones have none.")
    if state != "ok" or served < SLOTS:
        mend = "Start the masters that are away, or promote their replicas: CLUSTER NODES names them."
        return Check("cluster", "fail", said, mend)
    return Check("cluster", "ok", said)


def _coverage(info: Mapping[str, Any]) -> Check:
    name = "cluster-require-full-coverage"
    if info.get(name) == "no":
        return Check("coverage", "ok", f"{name} no")
    mend = f"Set {name} no: while one master is away, the accounts of the others are served then."
    return Check("coverage", "warn", f"{name} {info.get(name, 'can not be read')}", mend)


def _failover(info: Mapping[str, Any], lease_s: float) -> Check:
    mend = "or a shorter cluster-node-timeout: docs/reliability.md says why, under clusters."
    if "cluster-node-timeout" not in info:
        least = f"{NOTICE_SHARE:g} times cluster-node-timeout and {ELECTION_S:g} s"
        said = f"cluster-node-timeout can not be read, lease_s {lease_s:g}"
        return Check("failover", "warn", said, f"Have lease_s no shorter than {least}, {mend}")
    timeout_ms = int(info["cluster-node-timeout"])
    least_s = NOTICE_SHARE * timeout_ms / 1000 + ELECTION_S
    said = f"cluster-node-timeout {timeout_ms} ms, lease_s {lease_s:g}"
    if lease_s < least_s:
        return Check("failover", "warn", said, f"Set lease_s to {least_s:g} or more, {mend}")
    return Check("failover", "ok", said)


async def check_clocks(stores: Stores) -> list[Check]:
    """Whether the stores' clocks agree; nothing where one of them is away, which was found already."""
    ahead_s = await redis_ahead_s(stores.redis_url, stores.database_url, STORE_TIMEOUT_S)
    return [Check("clocks", *clock_finding(ahead_s))] if ahead_s is not None else []


def _of_shards(topology: str, shards: Sequence[Shard]) -> list[Check]:
    said = f"{topology} with {sum(len(shard.replicas) for shard in shards)} replicas"
    checks = [Check("topology", "ok", said)]
    if len(shards) < LEAST_MASTERS:
        checks = [Check("topology", "warn", said, f"Use {LEAST_MASTERS} masters or more: fewer can't vote.")]
    alone = [shard.master.name for shard in shards if not shard.replicas]
    if alone:
        mend = "Give each master a replica: without one its accounts get 503 until it is back itself."
        return [*checks, Check("replicas", "warn", f"{', '.join(alone)}: no replica", mend)]
    least = min(len(shard.replicas) for shard in shards)
    return [*checks, Check("replicas", "ok", f"at least {least} for each master")]
