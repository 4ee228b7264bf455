"""What is wrong with an installation, and how to mend it. Nothing here changes anything, and checks are values.

gateway         whether one runs, and what troubles it, as it says itself
configuration   the environment and the three files, and which are in force; models, plans, secrets, metrics, disk:
                `gateway.commands.doctor`
providers       at least one that is on; whether they answer and take our keys, where that is asked for
prices          a row for every routed model
vocabularies    the tokenizer's files
servers         the embedded ones, where nothing else was given
postgres        reachable, recent, durable, writable, migrated; no debit set aside
secrets key     whether it opens what is sealed in Postgres
plans           which revision is in force, and whether it is this file's
redis           reachable, recent, persistent, never evicting, a writable server of its own; of a cluster every server,
                and that it serves all slots and replaces a master sooner than a gateway counts as dead
mail            the mail server, where one is set: that it is there, and takes our name and password
clocks          those of both stores, and how far they are apart
"""

import asyncio
import ipaddress
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from billing.cli.output import CommandFailed, Output
from billing.database.connection import Database, DatabaseError, queries
from billing.database.migrate import pending
from billing.errors import StoreError
from billing.holds.redis.client import NO_EVICTION, SLOTS, RedisClient, Server, Shard
from billing.holds.redis.connection import RedisError, RedisStrange, info_fields
from billing.holds.redis.layout import AHEAD_S
from billing.plans import Plan
from gateway.commands.running import Running, ask_running
from gateway.commands.stores import NoData, Stores, open_stores, shown_url
from gateway.config.environment import UP_METRICS_ADDR, command_environment
from gateway.config.plan_follower import plans_finding
from gateway.config.settings import (
    ConfigError,
    ModelConfig,
    ProviderConfig,
    Settings,
    in_force,
    load_settings,
    unpriced_models,
    warnings,
)
from gateway.embedded.folders import EmbeddedServersError
from gateway.tokens import VocabularyError, verify_vocabularies

if TYPE_CHECKING:
    import aiohttp

Status = Literal["ok", "warn", "fail"]
MIB: Final = 1024 * 1024
# Of a disk: with less free, journals and Postgres's write-ahead log may fill it within hours.
LITTLE_BYTES: Final = 1024 * MIB
# With less free, Postgres may stop at its next checkpoint: a segment of its write-ahead log has 16 MiB.
LEAST_BYTES: Final = 128 * MIB
TOKEN_CHARACTERS: Final = 24
SHOWN: Final = 5
# Lists models in OpenAI's API and in those like it; it costs nothing.
MODELS_PATH: Final = "/models"
REFUSED: Final = (401, 403)
UNKNOWN: Final = (404, 405, 501)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `mend` says what to do, and is empty if nothing has to be done."""

    name: str
    status: Status
    message: str
    mend: str = ""


def check_disk(settings: Settings) -> list[Check]:
    """Free space where this installation writes: the data folder, where servers are embedded, and the spool."""
    folders = {}
    if settings.database_url is None or settings.redis_url is None or settings.data_dir.exists():
        folders["disk"] = settings.data_dir
    if settings.spool_dir is not None and not settings.spool_dir.is_relative_to(settings.data_dir):
        folders["spool disk"] = settings.spool_dir
    if settings.request_log not in (None, "-"):
        folders["request log disk"] = Path(str(settings.request_log)).parent
    return [disk_finding(name, folder) for name, folder in folders.items()]


def disk_finding(name: str, folder: Path) -> Check:
    """Return how much is free for a folder, or for the nearest one above it that there is."""
    existing = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Check(name, "warn", f"{folder}: {error.strerror}", "See that this user may read the folder.")
    detail = f"{folder}: {free // MIB:,} MiB free"
    if free < LEAST_BYTES:
        return Check(name, "fail", detail, "Free some space, or nothing can be written there soon.")
    if free < LITTLE_BYTES:
        return Check(name, "warn", detail, "Free some space before it is used up.")
    return Check(name, "ok", detail)


def check_models(
    providers: Mapping[str, ProviderConfig], models: Mapping[str, ModelConfig], plans: Mapping[str, Plan]
) -> list[Check]:
    """Return the models that nobody can use, because their provider is off: worth a warning where a plan or a model
    that is on counts on one of them."""
    on = {name for name, model in models.items() if providers[model.provider].enabled}
    relied = {name for plan in plans.values() for name in plan.models or ()}
    relied |= {name for each in on for name in models[each].fallbacks}
    found, off, unmissed = [], [], 0
    for provider in providers.values():
        names = [model.name for model in models.values() if model.provider == provider.name]
        if provider.enabled or not names:
            continue
        missed = sorted(relied.intersection(names))
        if missed:
            because = f"{provider.name} is off ({provider.off_reason}): {_some(names)}"
            mend = f"Turn {provider.name} on, or take what counts on them out of plans or fallbacks: {_some(missed)}."
            found.append(Check("models", "warn", f"{len(names)} can't be used, because {because}", mend))
        else:
            unmissed += len(names)
            off.append(provider.name)  # the line of the providers says why
    if off:
        detail = f"{unmissed} can't be used, because their providers are off: {', '.join(off)}"
        found.append(Check("models", "ok", detail))
    return found or [Check("models", "ok", f"the provider of each of {len(models)} is on")]


def check_secrets(settings: Settings) -> list[Check]:
    """Return secrets that are short enough to be guessed; keys, and what signs tokens, were refused when they were
    read."""
    tokens = (("INTERNAL_SERVICE_TOKEN", settings.internal_service_token),)
    short = [name for name, secret in tokens if secret is not None and len(secret.reveal()) < TOKEN_CHARACTERS]
    if not short:
        return [Check("secrets", "ok", "none is short")]
    detail = f"{', '.join(short)}: short enough to be guessed"
    return [Check("secrets", "fail", detail, "Make new ones with `openssl rand -hex 32`.")]


def check_metrics(settings: Settings) -> list[Check]:
    """Find whether anybody may read the metrics, which say what providers cost: METRICS_ADDR asks for no key."""
    address = settings.metrics_addr
    if address is None:
        detail = "at /metrics of the gateway, with the admin key"
        if settings.metrics_addr_optional:
            detail = f"of `metergate up`: at {UP_METRICS_ADDR}, without a key; of `metergate serve`: {detail}"
        return [Check("metrics", "ok", detail)]
    host = address.rpartition(":")[0].strip("[]")
    if not _is_public(host):
        return [Check("metrics", "ok", f"at {address}, without a key, on an address of your own network")]
    detail = f"METRICS_ADDR {address} asks for no key, and anybody may reach that address"
    mend = "Name an address that only your Prometheus reaches, such as 127.0.0.1:9090, or have a firewall guard it."
    return [Check("metrics", "warn", detail, mend)]


def _is_public(host: str) -> bool:
    """Return whether an address is every one of this machine, or one of the open internet; a name is not judged."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_unspecified or address.is_global


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def check_development(settings: Settings) -> list[Check]:
    """Find whether applications of this environment believe whoever names a user; nothing where they do not."""
    if not settings.development:
        return []
    detail = "METERGATE_DEVELOPMENT=1: X-User-Id and ?user_id= stand for a key in applications with the middleware"
    return [Check("development", "warn", detail, "Unset it wherever others can call them.")]


def configuration_checks(settings: Settings) -> Iterator[Check]:
    """Give every finding of the configuration, the environment and the disk."""
    yield from check_models(settings.providers, settings.models, settings.plans)
    yield from check_secrets(settings)
    yield from check_development(settings)
    yield from check_metrics(settings)
    yield from check_disk(settings)


async def check_mail(settings: Settings) -> list[Check]:
    """Return whether the mail server takes our name and password, where there is one; no mail is sent."""
    if settings.smtp_host is None:
        return []
    from billing.identity.mailer import MailFailed
    from gateway.runtime.outgoing import mail_delivery

    delivery = mail_delivery(settings, console=False)
    if delivery is None:
        return []
    try:
        async with delivery():
            return [Check("mail", "ok", f"{settings.smtp_host} takes mails from {settings.smtp_from}")]
    except MailFailed as error:
        return [Check("mail", "fail", str(error), "Correct the SMTP_ variables, or see why the server is away.")]


async def check_providers(providers: Iterable[ProviderConfig], timeout_s: float) -> list[Check]:
    """Call each provider that is on and elsewhere once. No finding shows a key, a header or an answer's body."""
    import aiohttp

    asked = [provider for provider in providers if provider.enabled and provider.base_url]
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True, cookie_jar=aiohttp.DummyCookieJar()) as session:
        return list(await asyncio.gather(*(_check(session, provider, timeout_s) for provider in asked)))


async def _check(session: "aiohttp.ClientSession", provider: ProviderConfig, timeout_s: float) -> Check:
    from aiohttp import ClientError

    name = f"provider {provider.name}"
    headers = dict(provider.headers)
    if provider.api_key is not None:
        headers["Authorization"] = f"Bearer {provider.api_key.reveal()}"
    url = provider.base_url + MODELS_PATH
    try:
        async with session.get(url, headers=headers, allow_redirects=False) as answer:
            status = answer.status
    except TimeoutError:
        mend = "See that this machine may reach it, or give --timeout more seconds."
        return Check(name, "fail", f"{url}: no answer within {timeout_s:g} s", mend)
    except (ClientError, OSError, ValueError) as error:
        return Check(
            name, "fail", f"{url}: {type(error).__name__}", "Correct its base_url, or let this machine reach it."
        )
    detail = f"{url}: HTTP {status}"
    if status in REFUSED:
        return Check(name, "fail", f"{detail}: the key is refused", "Replace the provider's key: it may be revoked.")
    if status in UNKNOWN:
        return Check(
            name, "warn", f"{detail}: it is there, and lists no models", "Try a request: the key was not checked."
        )
    if not 200 <= status < 300:
        return Check(
            name, "warn", f"{detail}: it is there, and does not answer well", "See the provider's status page."
        )
    return Check(name, "ok", f"{detail}: the key is taken" if provider.api_key is not None else detail)


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
    return Check("coverage", "warn", f"{name} {info.get(name, 'cannot be read')}", mend)


def _failover(info: Mapping[str, Any], lease_s: float) -> Check:
    mend = "or a shorter cluster-node-timeout: docs/reliability.md says why, under clusters."
    if "cluster-node-timeout" not in info:
        least = f"{NOTICE_SHARE:g} times cluster-node-timeout and {ELECTION_S:g} s"
        detail = f"cluster-node-timeout cannot be read, lease_s {lease_s:g}"
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


OLDEST_POSTGRES: Final = 14
# The check that fails where there is no ledger yet.
DATA: Final = "data"
# What clocks set by NTP never differ by, and what asking for them takes at most.
AGREE_S: Final = 5.0
_identity_query: Final = queries("billing.identity")
_POSTGRES_TIME: Final = "SELECT extract(epoch FROM clock_timestamp())::float"
_POSTGRES: Final = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::integer / 10000 AS major,
    current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,
    pg_is_in_recovery() AS standby"""


async def diagnose(environ: Mapping[str, str], output: Output, *, providers: bool = False) -> tuple[Check, ...]:
    """Return every check that can be made; what rests on a failed one is left out. With `providers` each is called
    once."""
    vocabularies = asyncio.get_running_loop().run_in_executor(None, check_vocabularies)  # another core's work
    try:
        settings = load_settings(environ, mode="command")
    except ConfigError as error:
        wrong = [Check("configuration", "fail", str(problem), "Correct it.") for problem in error.problems]
        return (*wrong, await vocabularies)
    running = await ask_running(settings, command_environment(environ), STORE_TIMEOUT_S)
    settings = as_running(settings, running)
    checks = [*check_settings(settings, time.time()), check_running(running), *configuration_checks(settings)]
    checks.append(await vocabularies)
    if providers:
        checks += await check_providers(settings.providers.values(), output.common.timeout_s)
    try:
        async with open_stores(settings, output) as stores:
            of_stores = await asyncio.gather(
                check_postgres(stores),
                check_plans(stores, settings),
                check_secrets_key(stores, settings),
                check_redis(stores.redis_url, settings.defaults.holds.lease_s),
                check_clocks(stores),
                check_mail(settings),
            )
            checks += chain.from_iterable(of_stores)
    except NoData as error:
        checks.append(Check(DATA, "fail", str(error)))
    except (EmbeddedServersError, CommandFailed) as error:
        checks.append(Check("servers", "fail", str(error)))
    return tuple(checks)


def as_running(settings: Settings, running: Running | None) -> Settings:
    """Return the settings with the providers on that are on in the gateway that runs: its environment counts, and not
    that of this command."""
    if running is None or running.off is None:
        return settings
    off = {name: each.off_reason for name, each in settings.providers.items()} | dict(running.off)
    providers = {name: replace(each, off_reason=off[name]) for name, each in settings.providers.items()}
    return replace(settings, providers=providers)


def check_running(running: Running | None) -> Check:
    """Return how the gateway that runs is, as its `/healthz` and the console say."""
    if running is None:
        return Check("gateway", "ok", "none runs here: what follows is of this environment and these files")
    if running.health.status == "ok":
        return Check("gateway", "ok", f"{running.url}: no problems found")
    mend = f"{running.url}/console/operator has what each is about, with links."
    return Check("gateway", "warn", f"{running.url}: {running.health.message}", mend)


def check_settings(settings: Settings, at_s: float) -> list[Check]:
    """Return configuration, providers and prices, at a Unix time."""
    checks = [Check("configuration", "ok", f"in force: the environment, and {in_force(settings)}")]
    on = [provider.name for provider in settings.providers.values() if provider.enabled]
    off = [f"{each.name} ({each.off_reason})" for each in settings.providers.values() if not each.enabled]
    detail = f"on: {', '.join(on) or 'none'}" + (f"; off: {', '.join(off)}" if off else "")
    checks.append(
        Check("providers", "ok", detail) if on else Check("providers", "fail", detail, "Set the key of one of them.")
    )
    if not unpriced_models(settings.models, settings.prices, at_s):
        checks.append(Check("prices", "ok", f"each of {len(settings.models)} models has one"))
    checks += [
        Check("configuration", "warn", warning, "Where that is not what you want, change the setting that it names.")
        for warning in warnings(settings, at_s)
    ]
    return checks


def check_vocabularies() -> Check:
    """Check the tokenizer's files. They are not loaded: what they have to be is known to the byte."""
    try:
        verify_vocabularies()
    except VocabularyError as error:
        return Check("vocabularies", "fail", str(error), "Install Metergate again.")
    return Check("vocabularies", "ok", "the tokenizer's files are whole")


async def check_postgres(stores: Stores) -> list[Check]:
    """Return the ledger's server."""
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
    names = [each.full_name for each in missing]
    checks = [_postgres_version(where, row), _postgres_durability(row), _migrations(names, stores)]
    if row["standby"]:
        checks.append(Check("postgres role", "fail", "a standby: it can't be written to", "Name the primary."))
    if set_aside:
        detail = f"{set_aside} debits that the ledger refused wait in debits_set_aside"
        checks.append(
            Check(
                "debits",
                "fail",
                detail,
                "`metergate ledger set-aside list` says why; each is money that was not charged.",
            )
        )
    return checks


async def check_plans(stores: Stores, settings: Settings) -> list[Check]:
    """Return whether this file of plans is the one in force; nothing before there is one."""
    database = Database(stores.database_url, size=1, timeout_s=STORE_TIMEOUT_S)
    try:
        return [Check("plans", *found) for found in await plans_finding(database, settings)]
    except DatabaseError:  # reported already
        return []
    finally:
        await database.close()


async def check_secrets_key(stores: Stores, settings: Settings) -> list[Check]:
    """Return whether SECRETS_KEY opens what is sealed in Postgres; nothing where nothing is."""
    database = Database(stores.database_url, size=1, timeout_s=STORE_TIMEOUT_S)
    try:
        if not await database.rows(_identity_query("sealed_some"), settings.jwt_secret is None):
            return []
        # Only here: what it is made of takes 20 ms to import.
        from billing.identity.encryption import SealBroken
        from gateway.runtime.encryption import check_encryption

        try:
            opened = await check_encryption(database, settings)
        except SealBroken as error:
            return [Check("secrets key", "fail", str(error), "Set SECRETS_KEY, or SECRETS_KEY_BEFORE, as it was.")]
        return [Check("secrets key", "ok", f"opens each of {opened} stored secrets that were tried")]
    except DatabaseError:  # reported already
        return []
    finally:
        await database.close()


def _postgres_version(where: str, row: Any) -> Check:
    detail = f"{where}: Postgres {row['version']}"
    if row["major"] < OLDEST_POSTGRES:
        return Check("postgres", "fail", detail, f"Metergate needs Postgres {OLDEST_POSTGRES} or later.")
    return Check("postgres", "ok", detail)


def _postgres_durability(row: Any) -> Check:
    detail = f"synchronous_commit {row['synchronous_commit']}, fsync {row['fsync']}"
    if "off" in (row["synchronous_commit"], row["fsync"]):
        return Check("durability", "fail", detail, "Set both to on, or a crash of Postgres loses debits.")
    return Check("durability", "ok", detail)


def _migrations(missing: list[str], stores: Stores) -> Check:
    if not missing:
        return Check("migrations", "ok", "the schema is up to date")
    status: Status = "warn" if stores.started_database else "fail"
    return Check(
        "migrations", status, f"missing: {', '.join(missing)}", "Run `metergate migrate`; `up` does it itself."
    )


async def check_clocks(stores: Stores) -> list[Check]:
    """Return whether the stores' clocks agree; nothing where one of them is away, which was found already."""
    ahead_s = await redis_ahead_s(stores.redis_url, stores.database_url, STORE_TIMEOUT_S)
    return [Check("clocks", *clock_finding(ahead_s))] if ahead_s is not None else []


async def redis_ahead_s(redis_url: str, database_url: str, timeout_s: float) -> float | None:
    """Return how many seconds Redis's clock is ahead of Postgres's: of a cluster's masters that which is furthest off.
    None where a store is away."""
    try:
        client = RedisClient(redis_url, timeout_s=timeout_s, connect_timeout_s=timeout_s)
    except RedisError:
        return None
    database = Database(database_url, size=1, timeout_s=timeout_s)
    try:
        ahead = []
        for shard in await client.shards():
            seconds, micros = await shard.master.command("TIME")
            ahead.append(float(int(seconds) + int(micros) / 1_000_000 - await database.value(_POSTGRES_TIME)))
    except StoreError:
        return None
    finally:
        await client.close()
        await database.close()
    return max(ahead, key=abs)


def clock_finding(ahead_s: float) -> tuple[Literal["ok", "warn", "fail"], str, str]:
    """Return a finding about it: a status, a description, and what to do."""
    detail = f"Redis's clock is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} Postgres's"
    if abs(ahead_s) < AGREE_S:
        return "ok", detail, ""
    if abs(ahead_s) <= AHEAD_S:
        return "warn", detail, "Have both machines set their clocks by NTP: windows follow Redis's."
    return "fail", detail, "Set the wrong one right, by NTP: while they differ by more than an hour no epoch opens."
