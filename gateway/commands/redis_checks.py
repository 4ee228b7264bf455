"""What the doctor finds of Redis: one server, or every server of a cluster, which has to replace a master sooner than a
gateway counts as dead."""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from billing.holds.redis.client import NO_EVICTION, SLOTS, RedisClient, Server, Shard
from billing.holds.redis.connection import RedisError, RedisStrange, info_fields
from gateway.commands.checks import Check, Status
from gateway.commands.failures import shown_url

STORE_TIMEOUT_S: Final = 5.0
# The report of a Redis server and its cluster, or the reason why there is none.
ServerInfo = Mapping[str, Any] | RedisError
OLDEST_REDIS: Final = (6, 2)
# Of fewer no majority is left to vote for a replica once one has died.
LEAST_MASTERS: Final = 3
# Of cluster-node-timeout: a server is asked for a sign of life after half of it, and given up a whole one later.
NOTICE_SHARE: Final = 1.5
# From a master that is given up to its replica as master: up to a second of waiting, the votes, and word of it.
ELECTION_S: Final = 2.0


async def check_redis(url: str, lease_s: float) -> list[Check]:
    """Return the server of holds and balances, or the servers of their cluster, which must replace a master in
    `lease_s`."""
    where = shown_url(url)
    try:
        client = RedisClient(url, timeout_s=STORE_TIMEOUT_S, connect_timeout_s=STORE_TIMEOUT_S)
    except RedisError as error:
        return [_away(where, error)]
    try:
        shards = await client.shards()
        servers = [server for shard in shards for server in (shard.master, *shard.replicas)]
        infos = dict(zip(servers, await asyncio.gather(*map(_server_info, servers)), strict=True))
    except RedisError as error:
        return [_away(where, error)]
    finally:
        await client.close()
    alone = infos[servers[0]]
    if len(servers) == 1 and isinstance(alone, RedisError):
        return [_away(where, alone)]
    if len(servers) == 1 and not isinstance(alone, RedisError) and not alone.get("cluster_enabled"):
        return redis_findings(where, client.topology, alone)
    return [*_of_servers(infos, lease_s), *_of_shards(client.topology, shards)]


async def _server_info(server: Server) -> ServerInfo:
    info: dict[str, Any] = {}
    try:
        for section in ("server", "persistence", "memory", "replication", "cluster"):
            info |= await server.info(section)
        if info.get("cluster_enabled"):
            info |= info_fields(await server.command("CLUSTER", "INFO"))
            with suppress(RedisError):  # who runs Redis for others often keeps its configuration to himself
                found = await server.command("CONFIG", "GET", "cluster-*")
                info |= {name.decode(): value.decode() for name, value in zip(found[::2], found[1::2], strict=True)}
    except RedisError as error:
        return error
    return info


def _away(where: str, error: RedisError) -> Check:
    wrong = isinstance(error, RedisStrange)
    mend = "Correct REDIS_URL: its address, user, password and options." if wrong else "Start it, or correct REDIS_URL."
    return Check("redis", "fail", f"{where}: {error}", mend)


def redis_findings(where: str, topology: str, info: Mapping[str, Any]) -> list[Check]:
    """Return the findings from a server's own report (https://redis.io/docs/latest/commands/info/)."""
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
    detail = f"{topology}, {role}, {info.get('connected_slaves', 0)} replicas"
    if info.get("redis_mode") == "sentinel":
        return Check("topology", "fail", detail, "Name the server itself in REDIS_URL, not its Sentinel.")
    if role != "master":
        return Check("topology", "fail", detail, "Name the primary in REDIS_URL: a replica can't be written to.")
    return Check("topology", "ok", detail)


def _of_servers(infos: Mapping[Server, ServerInfo], lease_s: float) -> list[Check]:
    """Return one finding for all servers of a cluster that say the same: a replica is the master of tomorrow."""
    who: dict[Check, list[str]] = {}
    for server, info in infos.items():
        for check in _of_node(info, lease_s):
            who.setdefault(check, []).append(server.name)
    names = list(dict.fromkeys(check.name for check in who))
    found = sorted(who.items(), key=lambda each: names.index(each[0].name))
    return [replace(check, message=f"{_whose(check, at, len(infos))}: {check.message}") for check, at in found]


def _whose(check: Check, servers: Sequence[str], count: int) -> str:
    if len(servers) == count:
        return "every server"
    return f"{len(servers)} servers" if check.status == "ok" else ", ".join(servers)


def _of_node(info: ServerInfo, lease_s: float) -> Iterable[Check]:
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
    detail = f"cluster_state {state}, {served} of {SLOTS} slots served"
    if int(info.get("cluster_slots_assigned", 0)) < SLOTS:
        return Check("cluster", "fail", detail, "Give every slot to a master: CLUSTER SLOTS says which ones have none.")
    if state != "ok" or served < SLOTS:
        mend = "Start the masters that are away, or promote their replicas: CLUSTER NODES names them."
        return Check("cluster", "fail", detail, mend)
    return Check("cluster", "ok", detail)


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
        detail = f"cluster-node-timeout can not be read, lease_s {lease_s:g}"
        return Check("failover", "warn", detail, f"Have lease_s no shorter than {least}, {mend}")
    timeout_ms = int(info["cluster-node-timeout"])
    least_s = NOTICE_SHARE * timeout_ms / 1000 + ELECTION_S
    detail = f"cluster-node-timeout {timeout_ms} ms, lease_s {lease_s:g}"
    if lease_s < least_s:
        return Check("failover", "warn", detail, f"Set lease_s to {least_s:g} or more, {mend}")
    return Check("failover", "ok", detail)


def _of_shards(topology: str, shards: Sequence[Shard]) -> list[Check]:
    detail = f"{topology} with {sum(len(shard.replicas) for shard in shards)} replicas"
    checks = [Check("topology", "ok", detail)]
    if len(shards) < LEAST_MASTERS:
        checks = [Check("topology", "warn", detail, f"Use {LEAST_MASTERS} masters or more: fewer can't vote.")]
    alone = [shard.master.name for shard in shards if not shard.replicas]
    if alone:
        mend = "Give each master a replica: without one its accounts get 503 until it is back itself."
        return [*checks, Check("replicas", "warn", f"{', '.join(alone)}: no replica", mend)]
    least = min(len(shard.replicas) for shard in shards)
    return [*checks, Check("replicas", "ok", f"at least {least} for each master")]
