"""Plain commands: over a connection of their own, which is made anew when it breaks."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio.connection import parse_url as parsed_by_library
from redis.crc import key_slot as slot_by_library

from billing.holds.redis.client import RedisClient, Server, key_slot, parse_url
from billing.holds.redis.connection import RedisAway, RedisRefused, RedisStrange, RedisTimeout
from tests.support.redis_cluster import Node

SECRET = "verysecret"


@pytest.fixture
async def client(lone_node: Node) -> AsyncIterator[RedisClient]:
    client = RedisClient(f"redis://127.0.0.1:{lone_node.port}")
    yield client
    await client.close()


@pytest.fixture
async def server(client: RedisClient) -> Server:
    (shard,) = await client.shards()
    return shard.master


_TEXT = st.text("ab%3A2/;é.-", max_size=8)


@given(st.sampled_from(["redis", "unix", "rediss"]), _TEXT, _TEXT, st.sampled_from(["", "h", "[::1]", "h:7"]), _TEXT)
@example("redis", "", "", "", "0")
@example("rediss", "", "p", "h", "?db=3")
@example("unix", "", "", "", "run/redis.sock?db=1")
@example("redis", "", "p", "h:7", "2?db=3")
@example("redis", "", "", "h", "2?db=")
@example("redis", "", "", "h", "?db=3&db=4")
def test_a_url_says_what_it_says_to_the_client_library(scheme, user, word, at, path):
    user, word = user.replace("/", ""), word.replace("/", "")
    url = f"{scheme}://{f'{user}:{word}@' if user or word else ''}{at}/{path}"
    expected = dict(parsed_by_library(url))
    found = parse_url(url)
    if scheme == "unix":  # which its path says
        del expected["connection_class"]
        found.pop("connection_class", None)
    assert found == expected


@given(st.text("{}ab", max_size=12).map(str.encode))
def test_a_key_has_the_slot_that_it_has_for_the_client_library(key):
    assert key_slot(key) == slot_by_library(key)


def test_a_url_whose_parts_would_be_passed_over_is_refused():
    for url, why in (
        ("redis://:verysecret@h:0", "port 0"),
        ("rediss://:verysecret@h:0/1", "port 0"),
        ("redis://:verysecret@h/x", "no number of a database"),
        ("redis://:verysecret@h/-1", "no number of a database"),
        (f"unix:///{107 * 'a'}", "more than 107 bytes"),
    ):
        with pytest.raises(RedisStrange, match=why) as refused:
            RedisClient(url)
        assert SECRET not in str(refused.value)
    for url in ("redis://h", "redis://h/", "redis://h:1/15", f"unix:///{106 * 'a'}"):
        RedisClient(url)


async def test_a_connection_that_broke_while_it_was_idle_costs_nothing(lone_node, server):
    before = await server.command("CLIENT", "ID")
    lone_node.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await server.command("PING") == b"PONG"
    assert await server.command("CLIENT", "ID") != before


async def test_commands_share_a_connection_and_not_that_of_scripts(client, server):
    ids = await asyncio.gather(*(server.command("CLIENT", "ID") for _ in range(20)))
    assert len(set(ids)) == 1
    assert await (await client.connect(b"any")).ask("CLIENT", "ID") not in ids


async def test_a_server_that_is_gone_is_away_and_found_again(lone_node, server):
    lone_node.kill()
    with pytest.raises(RedisAway):
        await server.command("PING")
    lone_node.start()
    assert await server.command("PING") == b"PONG"


async def test_a_command_that_gets_no_answer_is_given_up_with_its_connection(lone_node):
    client = RedisClient(f"redis://127.0.0.1:{lone_node.port}", connect_timeout_s=1.0)
    (shard,) = await client.shards()
    before = await shard.master.command("CLIENT", "ID")
    lone_node.freeze()
    with pytest.raises(RedisTimeout):
        await shard.master.command("PING")
    lone_node.thaw()

    async def answered():
        try:
            return bool(await shard.master.command("CLIENT", "ID") != before)
        except RedisAway:
            return False

    async with asyncio.timeout(60.0):
        while not await answered():
            await asyncio.sleep(0.02)
    await client.close()


async def test_a_refusal_says_that_nothing_was_done_and_does_not_repeat_what_was_sent(server):
    await server.command("SET", "text", "letters")
    with pytest.raises(RedisRefused) as refused:
        await server.command("INCRBY", "text", SECRET)
    assert SECRET not in str(refused.value)
    assert await server.command("GET", "text") == b"letters"


async def test_who_may_not_is_told_from_who_is_away(lone_node, server):
    lone_node.ask("ACL", "SETUSER", "default", "-keys")
    try:
        with pytest.raises(RedisStrange, match="does not take this user and password"):
            await server.command("KEYS", "*")
    finally:
        lone_node.ask("ACL", "SETUSER", "default", "+keys")


async def test_what_a_server_says_of_itself(server):
    found = await server.info("server", "memory")
    assert isinstance(found["redis_version"], str)
    assert isinstance(found["used_memory"], int)


async def test_a_hash_is_read_page_by_page(server):
    content = {f"field {number}".encode(): f"value {number}".encode() for number in range(1000)}
    await server.command("HSET", "many", *(part for pair in content.items() for part in pair))
    assert {field: value async for field, value in server.scan_hash("many", 10)} == content


@pytest.mark.parametrize(
    "url",
    [
        "rediss://:verysecret@127.0.0.1:1?ssl_cert_reqs=bogus",
        "rediss://:verysecret@127.0.0.1:1?ssl_ca_certs=/nowhere.pem",
        f"rediss://:verysecret@127.0.0.1:1?ssl_ca_certs={__file__}",
        "rediss://:verysecret@127.0.0.1:1?ssl_keyfile=/nowhere.pem",
        "rediss://:verysecret@127.0.0.1:1?ssl_min_version=7",
        "rediss://:verysecret@127.0.0.1:1?ssl_ciphers=x",
        f"redis://:verysecret@{'a' * 64}.example:1",
        "redis://:verysecret@a..example:1",
        "redis://:verysecret@a%00b:1",
    ],
)
async def test_a_url_that_can_not_be_is_told_from_who_is_away(url):
    with pytest.raises(RedisStrange, match="REDIS_URL") as refused:
        await RedisClient(url).connect(b"any")
    assert SECRET not in str(refused.value)
