"""The calls of a service: which are retried, with the same event id, and which are not; holds as blocks."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from billing.client.errors import BadAnswer, Refused, Unreachable
from metergate import Client, Retries
from tests.billing.client.support import Answer, debit, refused, scripted, service

if TYPE_CHECKING:
    from collections.abc import Iterator

Script = list[Answer | None]


def one_by_one(script: Script) -> Any:
    answers: Iterator[Answer | None] = iter(script)
    return lambda path, body: next(answers)


DONE: Answer = (201, debit({"event_id": "e", "account_id": "a"}))


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        ([None, DONE], 2),
        ([refused(503, "temporarily_unavailable", **{"Retry-After": "0"}), DONE], 2),
        ([(502, "<html>bad gateway</html>"), (200, {}), DONE], 2),
        ([refused(429, code) for code in ("capacity_held", "concurrency_exceeded", "too_many_attempts")] + [DONE], 4),
        ([None] * 9, 4),
        ([refused(429, "quota_exceeded")], 1),
        ([refused(402, "billing_required")], 1),
        ([refused(409, "idempotency_conflict")], 1),
        ([refused(401, "invalid_api_key")], 1),
        ([refused(503, "temporarily_unavailable", **{"Retry-After": "3600"})], 1),  # it would be over its time
    ],
)
async def test_what_is_tried_again(script, calls):
    async with scripted(one_by_one(script)) as (server, url), service(url) as client:
        last, asked = script[calls - 1], client.debit("a", amount_usd="1.00", tags={"x": "y"})
        if last is DONE:
            assert (await asked).charged_usd == "1.00"
        else:
            with pytest.raises(Unreachable if last is None else (Refused, BadAnswer)) as failed:
                await asked
            assert failed.value.status == (None if last is None else last[0])
    assert len(server.calls) == calls
    assert all(call == server.calls[0] for call in server.calls)  # under one event_id
    assert server.calls[0][1]["event_id"]


async def test_its_headers_are_those_of_a_service_alone():
    async with scripted(lambda path, body: DONE) as (server, url):
        async with service(url, api_key="mg_mine", admin_key="mine") as client:
            await client.debit("a", amount_usd="1")
            with pytest.raises(BadAnswer):
                await client.balance()
        async with Client(url) as client:
            with pytest.raises(RuntimeError):
                await client.debit("a", amount_usd="1")
    of_service, of_customer = server.headers
    assert (of_service["X-API-Key"], of_service["X-Service-Name"]) == ("the-service-key-of-mine", "aura")
    assert not {"Authorization", "X-Admin-Key"} & of_service.keys()
    assert not {"X-API-Key", "X-Service-Name"} & of_customer.keys()
    assert "the-service-key-of-mine" not in repr(client)


@pytest.mark.parametrize(("named", "key"), [("a b", "k"), (None, "k"), ("aura", None)])
def test_what_is_no_service(named, key):
    with pytest.raises(ValueError, match="service"):
        Client("http://x", service_key=key, service_name=named)


async def test_a_call_ends_in_its_time():
    waits = Retries(attempts=50, total_s=0.2, first_wait_s=0.01, longest_wait_s=0.01)
    async with scripted(lambda path, body: DONE) as (server, url), service(url, retries=waits) as client:
        server.gate = asyncio.Event().wait
        with pytest.raises(Unreachable, match="no answer within"):
            await client.debit("a", amount_usd="1")


async def test_room_is_a_yes_or_no_at_once():
    held = refused(429, "capacity_held", **{"Retry-After": "1"})
    allowed = {"allowed": True, "account_id": "a", "required_usd": "1", "available_usd": "2"}
    script = [held, refused(402, "billing_required"), refused(429, "quota_exceeded"), None, (200, allowed)]
    async with scripted(one_by_one([*script, refused(404, "not_found")])) as (_, url), service(url) as client:
        found = [await client.within_quota("a", amount_usd="1") for _ in range(4)]
        with pytest.raises(Refused):
            await client.within_quota("a", amount_usd="1")
    assert found == [False, False, False, True]


def held(state: str = "held") -> dict[str, Any]:
    return {"id": "h", "event_id": "e", "account_id": "a", "state": state, "held_usd": "2.00", "charged_usd": None,
            "feature": "service", "meter": None, "created_at": "2026-01-01T00:00:00Z",
            "expires_at": "2026-01-01T01:00:00Z", "ended_at": None}  # fmt: skip


class Holding:
    """Answers holds; `settles` are the answers to settlements."""

    def __init__(self, *settles: Answer | None) -> None:
        self.settles = iter(settles)

    def __call__(self, path: str, body: Any) -> Answer | None:
        if path == "holds":
            return 201, held()
        return (200, held("voided")) if path.endswith("/void") else next(self.settles)


SETTLED: Answer = (200, held("settled"))


@pytest.mark.parametrize(
    ("settles", "raises", "paths"),
    [
        ([SETTLED], None, ["settle"]),
        ([None, SETTLED], None, ["settle"] * 2),
        ([SETTLED], KeyError, ["settle"]),
        ([], None, ["void"]),
        ([], KeyError, ["void"]),
        ([None] * 4, Unreachable, ["settle"] * 4),  # perhaps it is settled: never given back
        ([(200, "garbage")], BadAnswer, ["settle"]),
        ([refused(503, "temporarily_unavailable")] * 4, Refused, ["settle"] * 4),
        ([refused(400, "invalid_request_error")], Refused, ["settle", "void"]),
        ([*[None] * 4, refused(400, "invalid_request_error")], "twice", ["settle"] * 5),
    ],
)
async def test_a_block_settles_or_gives_back(settles, raises, paths):
    async def block(client):
        async with client.hold("a", amount_usd="2.00", expires_in_s=60) as open_hold:
            if raises == "twice":
                with pytest.raises(Unreachable):
                    await open_hold.settle(amount_usd="1.00")
            if settles:
                await open_hold.settle(amount_usd="1.00")
            if raises is KeyError:
                raise KeyError

    async with scripted(Holding(*settles)) as (server, url), service(url) as client:
        if raises is None:
            await block(client)
        else:
            with pytest.raises(Refused if raises == "twice" else raises):
                await block(client)
    assert [path.removeprefix("holds/h/") for path, _ in server.calls[1:]] == paths


async def test_a_block_does_not_begin_with_a_hold_that_has_ended():
    """The same again gets the first answer, which says that it is open."""
    script = [(201, held()), (200, held("voided")), (201, held()), (200, held("expired")), SETTLED]
    async with scripted(one_by_one(script)) as (server, url), service(url) as client:
        with pytest.raises(Refused, match="'e' is voided already"):
            async with client.hold("a", event_id="e", amount_usd="2.00"):
                pytest.fail("this work would not be paid")
        async with client.hold("a", event_id="e", amount_usd="2.00") as late:
            await late.settle(amount_usd="1.00")  # what is over can be charged
    assert [path for path, _ in server.calls] == ["holds", "holds/h"] * 2 + ["holds/h/settle"]


async def test_who_leaves_a_block_gives_back():
    async with scripted(Holding()) as (server, url), service(url) as client:
        inside = asyncio.Event()

        async def block():
            async with client.hold("a", amount_usd="2.00"):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(block())
        await inside.wait()
        task.cancel()
        await asyncio.wait([task])
    assert [path for path, _ in server.calls] == ["holds", "holds/h/void"]


async def test_who_is_cancelled_in_a_call_leaves_no_hold_open(caplog):
    """In making a hold it is given back, in settling it the settlement goes on."""
    for paths in (["holds", "holds/h/void"], ["holds", "holds/h/settle"]):
        async with scripted(Holding(SETTLED)) as (server, url), service(url) as client:
            called, gate = asyncio.Event(), asyncio.Event()

            async def wait(server, at, called, gate):
                if server.calls[-1][0] == at:
                    called.set()
                    await gate.wait()

            server.gate = partial(wait, server, "holds" if paths[-1].endswith("void") else paths[-1], called, gate)

            async def block(client):
                async with client.hold("a", amount_usd="2.00") as held:
                    await held.settle(amount_usd="1.00")

            task = asyncio.create_task(block(client))
            await called.wait()
            task.cancel()
            await asyncio.sleep(0)
            gate.set()
            await asyncio.wait([task])
            assert task.cancelled()
        assert [path for path, _ in server.calls] == paths
    assert "nobody can tell" not in caplog.text
