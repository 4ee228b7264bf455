"""Bodies of requests through whole gateways: what is written of each, and what is not."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web

from gateway.body_logs.places import open_place
from gateway.body_logs.sealed_file import Keys
from gateway.config.body_logs import Redact
from tests.gateway.body_logs.support import KEY, config, logging_to, written
from tests.gateway.conftest import ADMIN_KEY, chat
from tests.support.answering import DONE, WORDS, answer, delta, saying, streaming, until, usage_chunk
from tests.support.buckets import BUCKET
from tests.support.clients import Slow, leave, noticed

pytestmark = pytest.mark.slow

MINI = "openai/gpt-4o-mini"


async def all_written(gateway, folder, count, **options):
    """What was written, once there are so many requests."""

    async def there():
        return len(await written(folder, **options)) >= count

    await until(there)
    return await written(folder, **options)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "bodies"


@pytest.fixture
def logging(make_gateway, upstream, folder):
    """Makes gateways that log bodies, with a provider that answers by this."""

    async def make(reply=None, **fields):
        url = None if reply is None else await upstream(reply)
        return await make_gateway(url, change=logging_to(folder, **fields))

    return make


async def test_a_json_answer_is_written_as_it_passed(logging, folder):
    gateway = await logging(saying(answer("Good day.")))
    customer = await gateway.customer()
    asked = chat("Hello, ann@example.com", model=MINI)
    async with customer.post(body=asked) as got:
        assert got.status == 200
        told, request_id = await got.json(), got.headers["x-request-id"]
    (line,) = await all_written(gateway, folder, 1)
    assert line | {"time": "", "latency_ms": 0} == {
        "request_id": request_id,
        "time": "",
        "account_id": customer.account_id,
        "key_id": customer.key_id,
        "endpoint": "/v1/chat/completions",
        "model": MINI,
        "provider": "openai",
        "stream": False,
        "status": 200,
        "ended": None,
        "latency_ms": 0,
        "request_bytes": len(json.dumps(asked)),
        "response_bytes": len(json.dumps(answer("Good day."))),
        "request": chat("Hello, [mail]", model=MINI),
        "response": told,
        "left_out": {},
        "cut": 0,
        "redacted": {"mail": 1},
    }


async def test_a_stream_is_written_as_its_events(logging, folder):
    gateway = await logging(streaming(*WORDS, usage_chunk(), DONE))
    customer = await gateway.customer()
    async with customer.post(body=chat(model=MINI, stream=True, stream_options={"include_usage": True})) as got:
        passed = (await got.read()).decode()
    (line,) = await all_written(gateway, folder, 1)
    assert line["response"] == passed
    assert (line["stream"], line["ended"], line["cut"]) == (True, None, 0)


async def test_an_address_that_a_stream_cuts_into_pieces_is_taken_out(logging, folder):
    pieces = [delta(each) for each in ("Write to an", "n@exa", "mple.com", ", please.")]
    gateway = await logging(streaming(*pieces, delta(finish="stop"), usage_chunk(), DONE))
    customer = await gateway.customer()
    async with customer.post(body=chat(model=MINI, stream=True)) as got:
        assert b"n@exa" in await got.read()
    (line,) = await all_written(gateway, folder, 1)
    events = [json.loads(each[6:]) for each in line["response"].split("\n\n") if each.startswith("data: {")]
    said = [each["choices"][0]["delta"].get("content", "") for each in events if each["choices"]]
    assert said == ["Write to [mail]", "", "", ", please.", ""]


async def test_what_a_client_got_before_it_left_is_written(logging, folder):
    provider = Slow(
        delta("These are words that the client gets, and there are quite enough of them to see some here. ")
    )
    gateway = await logging(provider.serve)
    customer = await gateway.customer()
    await leave(customer, chat(model=MINI, stream=True), first=b"some here")
    provider.let.set()
    (line,) = await all_written(gateway, folder, 1)
    assert (line["ended"], line["status"], line["cut"]) == ("client_gone", 200, 1)
    assert "These are words that" in line["response"]
    assert "some here" not in line["response"]  # a rule may have known the rest


async def test_a_client_that_left_before_an_answer_began(logging, folder):
    asked, let = asyncio.Event(), asyncio.Event()

    async def reply(request):
        asked.set()
        await let.wait()
        return web.json_response(answer())

    gateway = await logging(reply)
    customer = await gateway.customer()
    await leave(customer, chat(model=MINI), asked.wait)
    await noticed(gateway)
    let.set()
    (line,) = await all_written(gateway, folder, 1)
    assert (line["ended"], line["status"], line["response"], line["left_out"]) == ("client_gone", None, None, {})
    assert line["request"]["model"] == MINI


async def test_refusals_of_ours_and_of_providers_are_written(logging, folder):
    gateway = await logging(saying({"error": {"message": "no such thing", "type": "x"}}, 422))
    poor, rich = await gateway.customer("0", account={"plan": "free"}), await gateway.customer()
    for customer in (poor, rich):
        async with customer.post(body=chat(model=MINI)) as got:
            assert got.status in (402, 422)
    ours, theirs = await all_written(gateway, folder, 2)
    assert (ours["status"], ours["response"]["error"]["code"], ours["provider"]) == (402, "billing_required", None)
    assert (theirs["status"], theirs["response"]["error"]["message"]) == (422, "no such thing")


async def test_a_provider_that_breaks_a_stream(logging, folder):
    gateway = await logging(streaming(*WORDS, cut=True))
    customer = await gateway.customer()
    with pytest.raises(aiohttp.ClientPayloadError):
        async with customer.post(body=chat(model=MINI, stream=True)) as got:
            await got.read()
    (line,) = await all_written(gateway, folder, 1)
    assert line["status"] == 200
    assert line["ended"] is not None


async def test_no_secret_of_the_gateway_and_no_key_is_written(logging, folder):
    customer_key = []

    async def reply(request):
        return web.json_response(answer(f"{request.headers['Authorization']} {ADMIN_KEY} {KEY} {customer_key[0]}"))

    gateway = await logging(reply, redact=Redact(presets=()))
    customer = await gateway.customer()
    customer_key.append(customer.key)
    async with customer.post(body=chat(f"my key is {customer.key}", model=MINI, user=customer.key)) as got:
        assert got.status == 200
    await all_written(gateway, folder, 1)
    text = json.dumps(await written(folder))
    assert not [each for each in (customer.key, ADMIN_KEY, KEY, "sk-upstream") if each in text]


async def test_whose_bodies_are_not_written(logging, folder):
    gateway = await logging(None, excepted=frozenset({"acc_none"}))
    quiet, told = await gateway.customer(), await gateway.customer()
    for switch in ("off", "OFF ", "on"):
        async with quiet.post(body=chat(switch), headers={"X-Metergate-Body-Log": switch}) as got:
            assert got.status == 200
    async with told.post(body=chat("told")) as got:
        assert got.status == 200
    lines = await all_written(gateway, folder, 2)
    assert [line["request"]["messages"][0]["content"] for line in lines] == ["on", "told"]


async def test_accounts_and_keys_that_are_chosen_and_excepted(make_gateway, folder):
    first = await make_gateway()
    chosen, excepted, other = [await first.customer() for _ in range(3)]
    quiet = await first.admin("POST", "/keys", {"account_id": chosen.account_id, "name": "quiet"})
    fields = {
        "accounts": frozenset({chosen.account_id, excepted.account_id}),
        "excepted": frozenset({excepted.account_id, quiet["id"]}),
    }
    gateway = await make_gateway(change=logging_to(folder, **fields))
    for key in (chosen.key, excepted.key, other.key, quiet["key"], chosen.key):
        headers = {"Authorization": f"Bearer {key}"}
        async with gateway.session.post(f"{gateway.url}/v1/chat/completions", json=chat(), headers=headers) as got:
            assert got.status == 200
    lines = await all_written(gateway, folder, 2)
    assert {line["key_id"] for line in lines} == {chosen.key_id}
    assert len(lines) == 2


async def test_accounts_have_files_of_their_own(logging, folder):
    gateway = await logging()
    one, two = await gateway.customer(), await gateway.customer()
    for customer in (one, two, one):
        async with customer.post(body=chat(customer.account_id)) as got:
            assert got.status == 200
    assert len(await all_written(gateway, folder, 3)) == 3
    for customer, count in ((one, 2), (two, 1)):
        lines = await written(folder, account=customer.account_id)
        assert [line["account_id"] for line in lines] == [customer.account_id] * count
        assert customer.account_id in lines[0]["request"]["messages"][0]["content"]


async def test_a_place_that_takes_nothing_is_told_and_what_waits_is_bounded(logging, folder):
    folder.parent.joinpath("bodies").write_text("no folder")  # as a disk that is full, or a bucket that is away
    gateway = await logging(None, waiting_requests=4, account_share=500_000)
    customer = await gateway.customer()
    for _ in range(6):
        async with customer.post(body=chat()) as got:
            assert got.status == 200  # whatever becomes of its log
    await until(lambda: any(each.about == "body_logs" for each in gateway.health.troubles()))
    assert b"metergate_body_logs_dropped 4.0" in await gateway.metrics()
    folder.unlink()
    await until(lambda: not gateway.health.troubles())
    lines = await all_written(gateway, folder, 2)
    assert len(lines) == 2
    assert b"metergate_body_logs_bytes 0.0" in await gateway.metrics()


async def test_keys_change_and_older_files_stay_readable(make_gateway, folder):
    first = await make_gateway(change=logging_to(folder))
    customer = await first.customer()
    async with customer.post(body=chat()):
        pass
    await all_written(first, folder, 1)
    assert config(folder).encryption_key.reveal() == KEY
    later = Keys("another key that is long enough here", [KEY])
    assert len(await written(folder, keys=later)) == 1


async def test_bodies_in_a_bucket(make_gateway, bucket, monkeypatch):
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    to = f"{BUCKET}/of-gateways"
    gateway, place = await make_gateway(change=logging_to(to)), open_place(to, 0, bucket)
    customer = await gateway.customer()
    async with customer.post(body=chat("to a bucket")) as got:
        assert got.status == 200
    await until(place.days)
    (day,) = await place.days()
    (name,) = await place.names(day, customer.account_id)
    (line,) = Keys(KEY).lines(await place.get(name))
    assert json.loads(line)["request"] == chat("to a bucket")
    assert not gateway.health.troubles()


async def test_an_account_is_told(make_gateway, folder):
    other = await (await make_gateway()).customer()
    fields = {"sample": 10_000, "excepted": frozenset({other.account_id})}
    gateway = await make_gateway(change=logging_to(folder, **fields))
    customer = await gateway.customer()
    told = []
    for key in (customer.key, other.key):
        async with gateway.session.get(
            f"{gateway.url}/api/billing/status", headers={"Authorization": f"Bearer {key}"}
        ) as got:
            told.append((await got.json())["body_logs"])
    assert told == [{"share": "0.01", "keep_days": 30, "opt_out": "X-Metergate-Body-Log: off"}, None]


async def test_a_gateway_without_body_logs_writes_none(make_gateway, folder):
    gateway = await make_gateway()
    customer = await gateway.customer()
    async with customer.post(body=chat()) as got:
        assert got.status == 200
    assert not folder.exists()
    assert b"metergate_body_logs_dropped 0.0" in await gateway.metrics()
