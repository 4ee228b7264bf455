"""What is wrong with an installation, and how to mend it. Nothing here changes anything, and checks are values.

configuration   the environment and the three files, and which are in force; models, plans, secrets, metrics, disk:
                `gateway.commands.checks`
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
import time
from collections.abc import Mapping
from itertools import chain
from typing import Any, Final, Literal

from billing.cli.output import CommandFailed, Output
from billing.database.connection import Database, DatabaseError, queries
from billing.database.migrate import pending
from billing.errors import StoreError
from billing.holds.redis.client import RedisClient
from billing.holds.redis.connection import RedisError
from billing.holds.redis.layout import AHEAD_S
from gateway.commands.checks import Check, Status, check_mail, check_providers, configuration_checks
from gateway.commands.failures import shown_url
from gateway.commands.redis_checks import STORE_TIMEOUT_S, check_redis
from gateway.commands.stores import NoData, Stores, open_stores
from gateway.config.plan_follower import plans_finding
from gateway.config.settings import ConfigError, Settings, in_force, load_settings, unpriced_models, warnings
from gateway.embedded.folders import EmbeddedServersError
from gateway.tokens import VocabularyError, verify_vocabularies

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
    checks = [*check_settings(settings, time.time()), *configuration_checks(settings), await vocabularies]
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
    checks = [_postgres_version(where, row), _postgres_durability(row), _migrations(missing, stores)]
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
        from billing.identity.sealing import SealBroken
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
