"""Requests that a whole gateway can't serve as they are: unknown codings, heads above the bound, HTTP/2; and bodies
that wait to be asked for. Each is refused in the envelope, with one line of the log at most and none of its bytes."""

import gzip
import itertools
import json
import logging
import zlib

import pytest

from tests.gateway.conftest import ADMIN_KEY, Customer, Gateway
from tests.support.edge_clients import Seen, post
from tests.support.gateways import connect

pytestmark = pytest.mark.slow

SECRET = "secret-of-the-body-0123456789"
PLAIN = json.dumps({"model": "demo", "messages": [{"role": "user", "content": SECRET}]}).encode()
ZSTD_MAGIC, BR_LAST_EMPTY = b"\x28\xb5\x2f\xfd", b"\x0b\x02\x80"

PROXY, ADMIN = "/v1/chat/completions", "/api/admin/accounts"
CODINGS = {
    "br": ("br", BR_LAST_EMPTY + PLAIN),
    "zstd": ("zstd", ZSTD_MAGIC + PLAIN),
    "a name that is none": (SECRET, PLAIN),
    "two at once": ("gzip, br", gzip.compress(PLAIN)),
    "gzip that is none": ("gzip", PLAIN),
    "gzip cut short": ("gzip", gzip.compress(PLAIN)[:-9]),
    "gzip with a wrong sum": ("gzip", gzip.compress(PLAIN)[:-8] + b"\0" * 8),
    "deflate that is none": ("deflate", b"\x78\x9c" + PLAIN),
    "more behind deflate": ("deflate", zlib.compress(PLAIN) + b"more"),
}


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that any logger says, from when it is asked for."""
    caplog.set_level(logging.DEBUG)
    return caplog


async def answer_to(gateway: Gateway, sent: bytes) -> Seen:
    """What one connection's first request is answered."""
    client = await connect(gateway)
    client.send(sent)
    try:
        return await client.answer()
    finally:
        await client.leave()


def keyed(key: str) -> tuple[str, str]:
    return f"Authorization: Bearer {key}", f"X-Admin-Key: {ADMIN_KEY}"


def assert_refused(seen: Seen, logged: pytest.LogCaptureFixture, status: int = 400) -> None:
    error = json.loads(seen.body)["error"]
    assert seen.status == status
    assert error["code"] == {400: "invalid_request_error", 401: "invalid_api_key"}[status]
    assert {"message", "type", "param"} <= set(error)
    assert "server" not in seen.headers
    ours = [record for record in logged.records if record.name.startswith(("gateway", "aiohttp"))]
    assert len(ours) <= 1, [record.getMessage() for record in ours]
    assert all(record.exc_info is None for record in logged.records)
    assert SECRET not in seen.body.decode() + logged.text


async def test_a_body_that_can_not_be_decoded(gateway, logged, subtests):
    customer = await gateway.customer()
    for (name, (coding, body)), path in itertools.product(CODINGS.items(), (PROXY, ADMIN, "/v1/jobs/reconcile")):
        with subtests.test(name, path=path):
            logged.clear()
            sent = post(body, f"Content-Encoding: {coding}", *keyed(customer.key), path=path)
            assert_refused(await answer_to(gateway, sent), logged)


HEADS = {
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04" + SECRET.encode(),
    "a large header": post(PLAIN, f"X-Large: {SECRET * 1_000}", path=PROXY),
    "many headers": post(PLAIN, *[f"X-{number}: {SECRET}" for number in range(500)], path=PROXY),
    "a long query": post(PLAIN, path=f"{PROXY}?{SECRET * 1_000}"),
    "two framings": post(PLAIN, f"Transfer-Encoding: {SECRET}", path=PROXY),
    "coded transfer": post(PLAIN, "Transfer-Encoding: gzip", path=PROXY).replace(b"Content-Length", b"X-Length"),
    "a huge length": post(b"", "Content-Length: 99999999999999999999999999", path=PROXY),
}


async def test_a_head_that_can_not_be_read(gateway, logged, subtests):
    for name, sent in HEADS.items():
        with subtests.test(name):
            logged.clear()
            assert_refused(await answer_to(gateway, sent), logged)


async def test_an_offer_of_h2c_is_not_taken_up(gateway, logged):
    """RFC 9110, 7.8: who does not know the protocol answers as if it had not been offered, as curl --http2 expects."""
    customer = await gateway.customer()
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", f"HTTP2-Settings: {SECRET}")
    client = await connect(gateway)
    for key, status in ((customer.key, 200), ("mg_wrong", 401), (customer.key, 200)):
        client.send(post(PLAIN, *offer, f"Authorization: Bearer {key}", path=PROXY))
        seen = await client.answer()
        assert (seen.status, "upgrade" in seen.headers) == (status, False)
        if status == 401:
            assert_refused(seen, logged, 401)
    await client.leave()


async def test_a_body_that_waits_is_asked_for_once_and_not_before_the_key_is_right(gateway, subtests):
    customer = await gateway.customer()
    for path in (PROXY, PROXY.replace("chat", "ch%61t"), ADMIN, "/v1/jobs/reconcile"):
        with subtests.test(path):
            await check_asked_for_once(customer, path)


async def check_asked_for_once(customer: Customer, path: str) -> None:
    gateway = customer.gateway
    body = PLAIN if path.startswith("/v1/ch") else b'{"name": "Test"}' if path == ADMIN else b'{"fix": false}'
    awaiting = ("Expect: 100-continue",)
    head, _, _ = post(body, *awaiting, path=path).partition(b"\r\n\r\n")
    seen = await answer_to(gateway, head + b"\r\n\r\n")
    assert (seen.status, seen.interim) == (401, ())
    head, _, _ = post(body, *awaiting, *keyed(customer.key), path=path).partition(b"\r\n\r\n")
    client = await connect(gateway)
    client.send(head, b"\r\n\r\n")
    assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(body)
    seen = await client.answer()
    assert (seen.status in (200, 201), seen.interim) == (True, ())
    client.send(head, b"\r\n\r\n", body)  # all of it at once: nobody waits
    seen = await client.answer()
    assert (seen.status in (200, 201), seen.interim) == (True, ())
    await client.leave()
