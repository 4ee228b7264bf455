"""Which requests are traced, and what becomes of traces that can't be sent."""

import asyncio

import pytest

from gateway.config.environment import TraceSettings
from gateway.dialects.declarations import Endpoint
from gateway.tracing import exporter
from gateway.tracing.exporter import BATCH, ExportFailed, Tracer
from tests.support.answering import Provider, saying

CHAT = Endpoint("/v1/chat/completions", "chat")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def tracer(url="http://127.0.0.1:9/v1/traces", ratio=1.0, draw=0.5, most_waiting=10, **headers):
    settings = TraceSettings(endpoint=url, headers=headers, service="metergate", ratio=ratio)
    return Tracer(settings, most_waiting, draw=lambda: draw)


def begun(of, **headers):
    return of.begin(headers, CHAT, 1.0)


@pytest.mark.parametrize(("ratio", "draw", "sampled"), [(0.0, 0.0, False), (0.5, 0.4, True), (0.5, 0.5, False)])
def test_a_share_of_requests_is_traced(ratio, draw, sampled):
    """Whatever their callers want: they may be anybody."""
    for headers in ({}, {"traceparent": f"00-{TRACE}-{SPAN}-01"}):
        assert (begun(tracer(ratio=ratio, draw=draw), **headers) is not None) == sampled


def test_what_its_caller_does_not_trace_is_not_traced():
    assert begun(tracer(), traceparent=f"00-{TRACE}-{SPAN}-00") is None


def test_a_trace_goes_on_under_its_caller():
    trace = begun(tracer(), traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="a=1")
    trace.begin("attempt", 2.0, "openai", "gpt")
    attempt = trace.stages[-1].span_id
    assert trace.trace_id == TRACE
    assert trace.provider_lines() == f"traceparent: 00-{TRACE}-{attempt}-01\r\ntracestate: a=1\r\n".encode()


def test_no_key_is_shown():
    assert "secret" not in repr(tracer(authorization="secret")._settings)


async def test_a_queue_that_is_full_takes_no_more():
    of = tracer(most_waiting=3)
    for _ in range(5):
        of.end(begun(of))
    assert of.dropped == 2
    with pytest.raises(ExportFailed):
        await of.send_waiting()
    assert of.dropped == 2
    assert len(of._waiting) == 3  # to be sent with the next round
    await of.close()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_an_endpoint_that_is_busy_is_asked_again(upstream, status):
    receiver = Provider(saying({}, status))
    of = tracer(await upstream(receiver.serve), authorization="secret")
    of.end(begun(of))
    with pytest.raises(ExportFailed):
        await of.send_waiting()
    receiver.reply = saying({})
    await of.send_waiting()
    assert [sent.headers["authorization"] for sent in receiver.sent] == ["secret", "secret"]
    first, again = (sent.json["resourceSpans"][0]["scopeSpans"][0]["spans"] for sent in receiver.sent)
    assert [span["spanId"] for span in first] == [span["spanId"] for span in again]
    assert of.dropped == 0
    await of.close()


async def test_what_an_endpoint_refuses_is_dropped_and_said(upstream, caplog):
    receiver = Provider(saying({}, 400))
    of = tracer(await upstream(receiver.serve), most_waiting=2 * BATCH)
    for _ in range(BATCH + 1):
        of.end(begun(of))
    await of.send_waiting()
    assert (of.dropped, len(receiver.sent)) == (BATCH + 1, 2)
    assert "refused 512 of them: status 400" in caplog.text
    await of.close()


async def test_the_loop_sends_what_waits_at_its_end(upstream, monkeypatch):
    monkeypatch.setattr(exporter, "EVERY_S", 3600.0)
    receiver = Provider(saying({}))
    of = tracer(await upstream(receiver.serve))
    work = of.work()
    task = asyncio.create_task(work.run())
    await asyncio.sleep(0)
    of.end(begun(of))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (sent,) = receiver.sent
    assert len(sent.json["resourceSpans"][0]["scopeSpans"][0]["spans"]) == 1


async def test_what_was_being_sent_as_a_process_ends_is_not_lost_and_an_end_does_not_wait_for_who_hangs(caplog):
    """By an endpoint that takes connections and never answers."""
    asked = asyncio.Event()

    async def hang(reader, writer):
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    of = tracer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/traces")
    of.end(begun(of))
    sending = asyncio.ensure_future(of.send_waiting())
    await asked.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert len(of._waiting) == 1
    with caplog.at_level("INFO"):
        await of.close()
    assert "1 traces are lost: the endpoint of traces does not answer" in caplog.text
    server.close()
