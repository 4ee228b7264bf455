"""The connection to real servers: whatever becomes of one, every call is answered once, and nothing is asked of a life
that was not greeted."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest

from billing.holds.epochs import NotReady
from billing.holds.redis.connection import (
    RedisAway,
    RedisConnection,
    RedisMoved,
    RedisRefused,
    RedisTimeout,
    as_error,
)
from billing.holds.redis.layout import Keyspace
from tests.billing.holds.redis.links import FENCE, WAIT_S, fence_keys, greeted, linked, url_of, write
from tests.support.holds import World
from tests.support.ports import free_port
from tests.support.redis_cluster import Node
from tests.support.tls import make_certificate

SECRET = "verysecret"


@pytest.fixture
def keys(key_prefix: str) -> Keyspace:
    return Keyspace(key_prefix, 1)


async def test_a_script_that_the_server_has_forgotten_is_sent_again(lone_node, keys):
    async with linked(url_of(lone_node)) as link:
        assert await write(link, keys) == 1
        lone_node.ask("SCRIPT", "FLUSH")
        replies = await asyncio.gather(*(write(link, keys, epoch=2) for _ in range(20)))
        assert sorted(replies) == [0] * 19 + [1]


async def test_what_is_in_flight_when_a_connection_breaks_is_answered_once(lone_node, keys):
    async with linked(url_of(lone_node)) as link:
        life = await link.connect(keys.meta(0))
        before = await life.identity()
        replies = []
        lone_node.freeze()
        for epoch in range(10):
            link.send(FENCE, fence_keys(keys), [epoch + 1, "test", "ledger", 0], replies.append)
        waiting = asyncio.ensure_future(write(link, keys))
        await asyncio.sleep(0)
        assert replies == []
        lone_node.kill()
        with pytest.raises(RedisAway):
            await waiting
        assert [type(reply) for reply in replies] == [RedisAway] * 10
        assert not life.stands
        lone_node.start()
        with pytest.raises(RedisAway):  # the server is there, but nobody has greeted it
            await write(link, keys)
        again = await link.connect(keys.meta(0))
        assert await again.identity() != before
        assert await write(link, keys, epoch=20) == 1
        assert not life.stands
        assert len(replies) == 10


async def test_a_new_connection_to_the_same_life_is_greeted_too(lone_node, keys):
    async with linked(url_of(lone_node)) as link:
        life = await link.connect(keys.meta(0))
        assert await link.connect(keys.meta(0)) is life
        lone_node.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises(RedisAway):
            await life.ask("PING")
        with pytest.raises(RedisAway):
            await write(link, keys)
        again = await link.connect(keys.meta(0))
        assert again is not life
        assert await write(link, keys) == 1


async def test_a_server_that_hangs_is_given_up(lone_node, keys):
    async with linked(url_of(lone_node), timeout_s=1.0, connect_timeout_s=1.0) as link:
        life = await link.connect(keys.meta(0))
        before = await life.identity()
        lone_node.freeze()
        with pytest.raises(RedisTimeout):
            await write(link, keys)
        assert await link.connect(keys.meta(0)) is life  # a slow script says nothing of the server
        with pytest.raises(RedisTimeout):
            await life.ask("PING")
        with pytest.raises(RedisAway):
            await link.connect(keys.meta(0))
        lone_node.thaw()
        again = await greeted(link, keys)
        assert await again.identity() == before
        assert await write(link, keys, epoch=2) == 1


async def test_an_answer_that_lies_here_is_not_late(lone_node, keys):
    """A process that was busy for longer than it would wait takes what has come meanwhile."""
    async with linked(url_of(lone_node), timeout_s=1.0) as link:
        life = await link.connect(keys.meta(0))
        assert await write(link, keys) == 1  # the server knows the script from here on
        asking = asyncio.ensure_future(life.ask("PING"))
        calling = asyncio.ensure_future(write(link, keys, epoch=2))
        await asyncio.sleep(0)
        time.sleep(1.5)  # noqa: ASYNC251  (busy, and no other task runs)
        assert await asking == b"PONG"
        assert await calling == 1
        assert life.stands


async def test_a_server_that_is_away(keys):
    async with linked(f"redis://:{SECRET}@127.0.0.1:{free_port()}") as link:
        for ask in (link.connect(keys.meta(0)), link.command("PING"), write(link, keys), link.publish("c", b"m")):
            with pytest.raises(RedisAway) as raised:
                await ask
            assert SECRET not in str(raised.value)


async def test_a_replica_is_not_a_server_to_hold_with(lone_node, keys):
    async with linked(url_of(lone_node)) as link:
        life = await link.connect(keys.meta(0))
        await life.identity()
        assert not await life.has_changed()
        lone_node.ask("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(RedisMoved, match="READONLY"):
            await write(link, keys)
        assert not life.stands
        with pytest.raises(RedisMoved, match="replica"):
            await (await link.connect(keys.meta(0))).identity()
        lone_node.ask("REPLICAOF", "NO", "ONE")
        await greeted(link, keys)
        assert await write(link, keys) == 1


async def test_a_server_that_was_a_replica_meanwhile_has_changed(lone_node, keys):
    async with linked(url_of(lone_node)) as link:
        life = await link.connect(keys.meta(0))
        before = await life.identity()
        lone_node.ask("REPLICAOF", "127.0.0.1", free_port())
        lone_node.ask("REPLICAOF", "NO", "ONE")
        assert life.stands
        assert await life.has_changed()
        assert await life.identity() != before


@pytest.mark.parametrize("user", ["", "alice"])
async def test_users_passwords_and_databases(lone_node, keys, user):
    lone_node.ask("ACL", "SETUSER", "alice", "on", f">{SECRET}", "~*", "&*", "+@all")
    lone_node.ask("CONFIG", "SET", "requirepass", SECRET)
    place = f"127.0.0.1:{lone_node.port}/3"
    async with linked(f"redis://{user}:{SECRET}@{place}") as link:
        assert await write(link, keys) == 1
        assert await link.command("EXISTS", keys.meta(0)) == 1
        assert SECRET not in f"{link!r} {link.topology} {link._seed!r}"
    lone_node.ask("SELECT", 3)
    assert lone_node.ask("EXISTS", keys.meta(0)) == 1
    for wrong in (f"redis://{user}:{SECRET}x@{place}", f"redis://bob:{SECRET}@{place}", f"redis://{place}"):
        async with linked(wrong) as link:
            with pytest.raises(RedisAway) as raised:
                await link.connect(keys.meta(0))
            assert SECRET not in f"{raised.value!r} {raised.value.__cause__!r}"
            with pytest.raises(RedisAway):
                await link._seed.connect()
            async with asyncio.timeout(WAIT_S):  # a refused connection is closed: the test's own is left
                while len(lone_node.ask("CLIENT", "LIST").splitlines()) > 1:
                    await asyncio.sleep(0.02)
    async with linked(f"redis://{user}:{SECRET}@127.0.0.1:{lone_node.port}/99") as link:
        with pytest.raises(RedisAway):
            await link.connect(keys.meta(0))


def test_a_reply_that_nobody_has_asked_for_ends_the_connection(caplog):
    """As a server with too many clients sends it, before it closes."""
    answers = []
    connection = RedisConnection(lambda: answers.append("lost"))
    connection.data_received(b"-ERR max number of clients reached\r\n")
    assert "max number of clients reached" in caplog.text
    connection.send(["PING"], answers.append)
    assert [type(each) for each in answers] == [RedisAway]


def test_errors_never_repeat_arguments():
    """A server that knows no such command repeats what came with it."""
    for text in (
        f"ERR unknown command 'AUTH', with args beginning with: '{SECRET}' ",
        f"ERR unknown command `EVALSHA`, with args beginning with: `{SECRET}`, ",
    ):
        error = as_error(hiredis.ReplyError(text), "hot")
        assert type(error) is RedisRefused
        assert str(error).startswith("hot: ERR unknown command")
        assert SECRET not in str(error)
    assert len(str(as_error(hiredis.ReplyError("ERR " + "x" * 10_000), "hot"))) < 300
    moved = as_error(hiredis.ReplyError("MOVED 3999 127.0.0.1:6381"), "hot")
    assert type(moved) is RedisMoved


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1, signed by itself."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def behind_tls(node: Node, key: Path, certificate: Path) -> AsyncIterator[int]:
    """The port of a TLS end before a server: the embedded one has none."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", node.port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def test_tls(lone_node, keys, certificate):
    async with behind_tls(lone_node, *certificate) as port:
        async with linked(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate[1]}") as link:
            assert await write(link, keys) == 1
        async with linked(f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none") as link:
            assert await write(link, keys, epoch=2) == 1
        async with linked(f"rediss://127.0.0.1:{port}") as link:  # nobody vouches for its certificate
            with pytest.raises(RedisAway):
                await link._seed.connect()
            with pytest.raises(RedisAway):
                await link.command("PING")


async def test_what_others_say(lone_node):
    async with linked(url_of(lone_node)) as link, linked(url_of(lone_node)) as other:
        subscribed, heard = asyncio.Event(), asyncio.Queue[bytes]()

        async def listen():
            async for message in link.listen("changes", subscribed.set):
                heard.put_nowait(message)

        listening = asyncio.ensure_future(listen())
        async with asyncio.timeout(WAIT_S):
            await subscribed.wait()
            await other.publish("changes", b"one")
            assert await heard.get() == b"one"
        lone_node.kill()
        with pytest.raises(RedisAway):
            await listening


# The handshake


class TestHandshake:
    """A gateway with its own server, which is killed and restarted with its data."""

    @pytest.fixture
    def redis_url(self, lone_node: Node) -> str:
        return url_of(lone_node)

    async def test_a_server_that_comes_back_is_greeted_before_it_is_asked(self, make_world, lone_node):
        world = await make_world()
        (partition,) = world.engine.partitions.all
        first = partition.epoch
        assert first is not None
        lone_node.ask("CONFIG", "SET", "appendfsync", "always")
        await self.come_back(world, lone_node)
        assert partition.epoch is None
        assert lone_node.ask("HGET", world.keys.meta(0), "epoch") == str(first)  # it would serve, if it were asked
        for _ in range(3):
            with pytest.raises(RedisAway):
                await write(world.link, world.keys, epoch=first)
        assert await world.engine.partitions.ensure(partition) > first

    @staticmethod
    async def come_back(world: World, node: Node) -> None:
        (partition,) = world.engine.partitions.all
        life = partition.session
        assert life is not None
        node.kill()
        async with asyncio.timeout(WAIT_S):
            while life.stands:
                await asyncio.sleep(0)
        node.start()

    async def test_a_handshake_that_a_restart_interrupts(self, make_world, lone_node):
        """The epoch was read from one life of the server, and would be used in the next."""
        world = await make_world()
        await world.engine.stop()
        partitions, (partition,) = world.engine.partitions, world.engine.partitions.all
        first, restarts = await partitions.ensure(partition), 0
        lone_node.ask("CONFIG", "SET", "appendfsync", "always")
        database = partitions.database

        class Restarting:
            """The ledger, in whose time of answering the server restarts."""

            async def row(self, query: str, *arguments: object) -> Any:
                nonlocal restarts
                row = await database.row(query, *arguments)
                if restarts < 2:
                    restarts += 1
                    lone_node.kill()
                    lone_node.start()
                return row

        partitions.database = Restarting()
        for _ in range(2):
            with pytest.raises(NotReady):
                await partitions.ensure(partition, stale=first)
            assert partition.epoch is None
        epoch = await partitions.ensure(partition)
        assert epoch > first
        run_id = lone_node.ask("INFO", "server")["run_id"]
        assert lone_node.ask("HGET", world.keys.meta(0), "identity").startswith(run_id)
