"""Databases for tests: copies of a template that are cleaned and used again, for a fraction of what copies cost.

A database is clean when its catalogue is the template's (`Pristine.stamp`, or where that differs `Pristine.schema`,
which takes ten times as long), and every table has the template's rows.
Rows of later transactions than the template's last are deleted; a table that then lacks some, because they were changed
or deleted, is filled again. What can't be brought back so is dropped: another schema, another name, much data.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from gateway.embedded.servers import Endpoints
from tests.support.loop_thread import TIMEOUT_S, LoopThread

if TYPE_CHECKING:
    from concurrent.futures import Future

# What has no schema to be brought back to.
EMPTY = "template0"
# Databases of a template that wait for tests to come.
AHEAD = 2
# So many that can't be used again are dropped at once: each drop waits for a checkpoint.
BEHIND = 20
# What the tables of a database that is used again hold at most, dead rows too.
MOST_BYTES = 2 << 20
# Of what is not built into every server (`FirstNormalObjectId`, postgres/src/include/access/transam.h).
FIRST_OID = 16384

# How many rows the catalogue has and the last transaction that wrote one, and how many bytes the tables hold. Rows that
# a migration or an ALTER changes are newer than the template's; who deletes rows leaves fewer.
STAMP = """
SELECT concat_ws(',',
    (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_class WHERE oid >= 16384),
    (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_attribute WHERE attrelid >= 16384),
    (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_attrdef),
    (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_index WHERE indexrelid >= 16384),
    (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_constraint WHERE oid >= 16384),
    (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_trigger),
    (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_proc WHERE oid >= 16384),
    (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_namespace),
    (SELECT (count(*), max(r.xmin::text::bigint))::text FROM pg_db_role_setting r
        JOIN pg_database b ON r.setdatabase = b.oid WHERE datname = current_database())
), (SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r')
"""

# A digest of what a migration or an ALTER changes.
SCHEMA = """
SELECT md5(string_agg(said, ';' ORDER BY said)) FROM (
    SELECT (oid, relname, relnamespace, reltype, relowner, relam, relhasrules, relhastriggers, relrowsecurity,
            relreplident, relacl, reloptions, relpartbound)::text FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT (attrelid, attnum, attname, atttypid, atttypmod, attnotnull, attidentity, attgenerated,
            attacl)::text FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT d::text FROM pg_attrdef d
    UNION ALL SELECT i::text FROM pg_index i WHERE indexrelid >= 16384
    UNION ALL SELECT k::text FROM pg_constraint k WHERE oid >= 16384
    UNION ALL SELECT t::text FROM pg_trigger t
    UNION ALL SELECT p::text FROM pg_proc p WHERE oid >= 16384
    UNION ALL SELECT n::text FROM pg_namespace n
    UNION ALL SELECT r::text FROM pg_db_role_setting r JOIN pg_database b ON r.setdatabase = b.oid
        WHERE datname = current_database()
) everything (said)
"""
TABLES = """
SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
AND NOT relispartition ORDER BY 1
"""
SEQUENCES = "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'"
END_SESSIONS = """
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True, slots=True)
class Pristine:
    """A template as it was when it was finished: the first transaction after it, and what its tables hold, as JSON."""

    next_xid: int
    stamp: str
    schema: str
    tables: Mapping[str, str | None]
    counts: tuple[int, ...]
    sequences: tuple[str, ...]

    @property
    def cleaning(self) -> str:
        """The statement that deletes what came after the template, where no trigger hinders it. It gives how many rows
        each table keeps. A session has it planned once."""
        names = dict(enumerate(self.tables))
        deleted = [
            f"d{at} AS (DELETE FROM {name} WHERE xmin::text::bigint >= {self.next_xid} RETURNING 1)"  # noqa: S608
            for at, name in names.items()
        ]
        kept = [f"(SELECT count(*) FROM {name}) - (SELECT count(*) FROM d{at})" for at, name in names.items()]  # noqa: S608
        reset = [f"setval('{sequence}', 1, false)" for sequence in self.sequences]
        return f"WITH {', '.join(deleted)} SELECT {', '.join(kept + reset)}"


class Databases:
    """Makes, cleans and drops databases on the servers of this run.

    What the next tests take is made or cleaned while the tests before them run, beside them.
    """

    def __init__(self, thread: LoopThread, endpoints: Endpoints) -> None:
        self._thread, self._endpoints = thread, endpoints
        self._connection = thread.run(asyncpg.connect(self.url("postgres")))
        self._one_at_a_time = asyncio.Lock()
        self._ready: dict[str, deque[Future[str]]] = {}
        self._pristine: dict[str, Pristine] = {}
        self._sessions: dict[str, Any] = {}
        self._left: list[str] = []

    def url(self, name: str) -> str:
        return urlunsplit(urlsplit(self._endpoints.database_url)._replace(path=f"/{name}"))

    def create(self, name: str, template: str = EMPTY) -> str:
        """Make a database of this name now."""
        self._thread.run(self._create(name, template))
        return self.url(name)

    def take(self, template: str) -> str:
        """The name of a copy of `template` that nobody else has."""
        ready = self._ready.setdefault(template, deque())
        while len(ready) <= AHEAD:
            ready.append(self._thread.begin(self._copy(template)))
        return ready.popleft().result(TIMEOUT_S)

    def leave(self, name: str, template: str) -> None:
        """Give back what was taken: it is cleaned for another test, or dropped some time."""
        if template == EMPTY:
            self._left.append(name)
            if len(self._left) >= BEHIND:
                self._thread.run(self._drop_left())
        else:
            self._ready[template].append(self._thread.begin(self.renewed(name, template)))

    def drop(self, name: str) -> None:
        """Drop a database now."""
        self._thread.run(self._execute(f"DROP DATABASE {name} WITH (FORCE)"))

    def close(self) -> None:
        for ready in self._ready.values():
            for coming in ready:
                coming.result(TIMEOUT_S)
        for session in self._sessions.values():
            self._thread.run(session.close())
        self._thread.run(self._connection.close())

    async def renewed(self, name: str, template: str) -> str:
        """The name of a database that is as good as new: this one, or a copy in its place. For the servers' thread."""
        try:
            if await _clean(self._sessions[name], await self._pristine_of(template)):
                return name
        except (asyncpg.PostgresError, asyncpg.InterfaceError):  # renamed, dropped, or its sessions were ended
            pass
        self._sessions.pop(name).terminate()
        self._left.append(name)
        if len(self._left) >= BEHIND:
            await self._drop_left()
        return await self._copy(template)

    async def _pristine_of(self, template: str) -> Pristine:
        async with self._one_at_a_time:  # nobody may be looking at a template that is copied
            if template not in self._pristine:
                self._pristine[template] = await _look(self.url(template))
        return self._pristine[template]

    async def _copy(self, template: str) -> str:
        """Make a copy, and its first session, which costs as much again; it stays, to clean it."""
        if template != EMPTY:
            await self._pristine_of(template)
        name = f"t{secrets.token_hex(6)}"
        await self._create(name, template)
        session = await asyncpg.connect(
            self.url(name), max_cacheable_statement_size=0, server_settings={"session_replication_role": "replica"}
        )
        if template == EMPTY:
            await session.close()
        else:
            self._sessions[name] = session
        return name

    async def _create(self, name: str, template: str) -> None:
        # wal_log writes the new database's few pages to the log; file_copy would cost two checkpoints.
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")

    async def _drop_left(self) -> None:
        names, self._left = self._left, []
        for name in names:
            await self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def _execute(self, command: str) -> None:
        async with self._one_at_a_time:
            await self._connection.execute(command)


async def _clean(session: Any, pristine: Pristine) -> bool:
    """Bring a database back to its template; False where that can't be done."""
    await session.execute(END_SESSIONS)
    stamp, held_bytes = await session.fetchrow(STAMP)
    if held_bytes > MOST_BYTES or (stamp != pristine.stamp and await session.fetchval(SCHEMA) != pristine.schema):
        return False
    kept = await session.fetchrow(pristine.cleaning)
    for (table, rows), is_, was in zip(pristine.tables.items(), kept, pristine.counts, strict=False):
        if is_ != was:
            await session.execute(f"DELETE FROM {table}")  # noqa: S608 - the template's own names, here and below
            insert = f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, $1)"  # noqa: S608
            await session.execute(insert, rows)
    return True


async def _look(url: str) -> Pristine:
    """What a template is like now."""
    connection: Any = await asyncpg.connect(url)
    try:
        names = [row[0] for row in await connection.fetch(TABLES)]
        tables = {name: await connection.fetchval(f"SELECT json_agg(t)::text FROM {name} t") for name in names}  # noqa: S608
        counted = ", ".join(f"(SELECT count(*) FROM {name})" for name in names)  # noqa: S608
        return Pristine(
            next_xid=await connection.fetchval("SELECT txid_current()") + 1,
            stamp=await connection.fetchval(STAMP),
            schema=await connection.fetchval(SCHEMA),
            tables=tables,
            counts=tuple(await connection.fetchrow(f"SELECT {counted}")),
            sequences=tuple(row[0] for row in await connection.fetch(SEQUENCES)),
        )
    finally:
        await connection.close()


def share_types() -> None:
    """Have a connection of this process that needs to know types that every server has, such as `bigint[]`, ask for
    them only where none has asked before: that takes longer than all else that most connections do."""
    ask = asyncpg.Connection._introspect_types
    known: dict[frozenset[int], Any] = {}

    async def shared(self: Any, oids: Iterable[int], timeout: float | None) -> Any:
        asked = frozenset(oids)
        if asked in known:
            return known[asked]
        found = await ask(self, asked, timeout)
        if max(asked) < FIRST_OID:
            known[asked] = found
        return found

    asyncpg.Connection._introspect_types = shared
