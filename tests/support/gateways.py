"""What end-to-end tests share: providers that behave as they are told, and what must hold once a request is over.

Prices here are those of gpt-4o-mini in the shipped table, in nano-USD a token.
"""

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDictProxy

from billing.holds.redis.layout import HELD, Entry
from billing.money import parse_usd
from gateway.tokens import O200K, Tokenizer
from tests.gateway.conftest import Customer, Gateway, chat
from tests.support.answering import BOUND_S, PROVIDER_KEY, until
from tests.support.edge_clients import Client

INPUT, CACHED, OUTPUT = 150, 75, 600
AMOUNT = re.compile(r"-?\d+\.\d{2,9}")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
ULID_TEXT = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


async def early_in_a_minute(margin_s: float = 12.0) -> None:
    """Wait out a minute's last seconds, so that what follows falls into one."""
    await until(lambda: time.time() % 60 < 60 - margin_s)


async def journal(gateway: Gateway) -> dict[str, Entry]:
    """What Redis holds of requests that are running or not yet in Postgres, by request id."""
    engine = gateway.runtime.engine
    found = {}
    for partition in engine.partitions.all:
        name = engine.keyspace.journal(partition.number).decode()
        async for request_id, raw in gateway.runtime.redis_client.scan_hash(name, 500):
            found[request_id.decode()] = Entry.unpack(raw)
    return found


async def held(gateway: Gateway) -> list[str]:
    """Request ids that have a hold."""
    return [request_id for request_id, entry in (await journal(gateway)).items() if entry.state == HELD]


async def spent_nano(customer: Customer, of_usd: str = "5.00") -> int:
    """What has gone from a balance, once nothing is held any more."""

    async def nothing_held() -> bool:
        return not customer.gateway.runtime.engine.holds.live and not await held(customer.gateway)

    await until(nothing_held)
    balance = await customer.balance()
    assert balance["held_usd"] == "0.00"
    return parse_usd(of_usd) - parse_usd(balance["balance_usd"])


async def assert_free(customer: Customer) -> None:
    """Nothing is held, nothing was charged, and the ledger has no event."""
    assert await spent_nano(customer) == 0
    assert await customer.events() == []


async def the_event(customer: Customer, nano: int | None = None, of_usd: str = "5.00") -> dict[str, Any]:
    """The one usage event; it charged what the balance has lost, which is `nano` where given."""
    spent = await spent_nano(customer, of_usd)
    (found,) = await customer.events()
    assert parse_usd(found["charged_usd"]) == spent
    assert nano is None or spent == nano
    return found


async def metric(gateway: Gateway, series: str) -> float:
    """The value of a series now, 0 where it has none yet: a gateway that tests share has counted before."""
    lines = (await gateway.metrics()).decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{series} ")), 0.0)


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer read to its end; `cut` when it broke off before that."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    cut: bool = False

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


async def fetch(asking: Any) -> Fetched:
    """Send a request and read what comes back."""
    async with asyncio.timeout(BOUND_S), asking as response:
        body, cut = bytearray(), False
        try:
            async for chunk in response.content.iter_any():
                body += chunk
        except aiohttp.ClientError:
            cut = True
        return Fetched(response.status, response.headers, bytes(body), cut)


async def ask(customer: Customer, body: Any = None, path: str = "/v1/chat/completions", **options: Any) -> Fetched:
    """POST a body, gpt-4o-mini's chat when none is given."""
    return await fetch(customer.post(path, chat(model="gpt-4o-mini") if body is None else body, **options))


def asking(customer: Customer, body: Any = None, **options: Any) -> "asyncio.Task[Fetched]":
    """The same, in a task of its own."""
    return asyncio.create_task(ask(customer, body, **options))


def refusal(fetched: Fetched, status: int, code: str) -> dict[str, Any]:
    """The error of a refusal in OpenAI's envelope, checked for what every one has."""
    text = fetched.body.decode()
    assert fetched.status == status, text
    assert fetched.headers["Content-Type"].startswith("application/json")
    assert ULID_TEXT.fullmatch(fetched.headers["x-request-id"])
    assert_tells_no_secret(text + str(fetched.headers))
    assert fetched.json.keys() == {"error"}
    error: dict[str, Any] = fetched.json["error"]
    assert error["code"] == code, text
    assert {"message", "type", "param", "code"} <= error.keys()
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert_plain(error)
    return error


def assert_tells_no_secret(text: str) -> None:
    """Neither a key, nor a digest, nor where it stood in the code or the stores."""
    for secret in (PROVIDER_KEY, "Traceback", "asyncpg", "redis", "Redis", "api_keys", "sha256", 'File "'):
        assert secret not in text, secret
    assert not re.search(r"mg_[0-9A-Za-z]{32}", text)
    assert not re.search(r"\b[0-9a-f]{64}\b", text)


def assert_plain(error: object) -> None:
    """Amounts are plain decimals and times RFC 3339 in UTC, wherever they stand."""
    if isinstance(error, dict):
        for name, value in error.items():
            if value is not None and name.endswith("_usd"):
                assert AMOUNT.fullmatch(value), (name, value)
            if value is not None and name.endswith("_at"):
                assert MOMENT.fullmatch(value), (name, value)
            assert_plain(value)
    elif isinstance(error, list):
        for item in error:
            assert_plain(item)
    assert not isinstance(error, float)


@dataclass
class RawAnswer:
    """What came back on a bare connection, and how the connection ended."""

    data: bytes
    reset: bool

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1]) if self.data.startswith(b"HTTP/1.") else 0

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]


async def raw(gateway: Gateway, *pieces: bytes) -> RawAnswer:
    """Send bytes on a connection of their own and read the answer, to its length or to the connection's end."""
    where = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    data, reset = bytearray(), False
    try:
        async with asyncio.timeout(BOUND_S):
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                while not _is_whole(data) and (chunk := await reader.read(65_536)):
                    data += chunk
            except ConnectionError:
                reset = True
    finally:
        writer.close()
    return RawAnswer(bytes(data), reset)


def _is_whole(data: bytearray) -> bool:
    headers, end, body = bytes(data).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", headers)
    return bool(end) and length is not None and len(body) >= int(length[1])


def head(customer: Customer, *lines: str, path: str = "/v1/chat/completions", version: str = "1.1") -> bytes:
    """The head of a raw request."""
    given = (f"POST {path} HTTP/{version}", "Host: gateway", f"Authorization: Bearer {customer.key}", *lines)
    return "\r\n".join((*given, "", "")).encode("latin-1")


def counted(body: bytes) -> int:
    """The input that is held where the bytes do not fit: short texts by their tokens, the JSON around them by bytes."""
    asked = json.loads(body)
    texts = [message["content"] for message in asked.get("messages", ())]
    texts += [asked["prompt"]] if "prompt" in asked else []
    tokenizer = Tokenizer()
    try:
        gained = sum(len(json.dumps(text)) - 3 - tokenizer.count(text, O200K) for text in texts) - 3
    finally:
        tokenizer.close()
    return len(body) - max(0, gained)


async def connect(gateway: Gateway) -> Client:
    """Open a separate connection."""
    host, port = gateway.url.removeprefix("http://").split(":")
    return Client(*await asyncio.open_connection(host, int(port)))
