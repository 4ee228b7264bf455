"""The tap on a stream: which bytes pass, which are held back or removed, and the usage that it has read."""

import re
from typing import Any

import pytest

from gateway.dialects import streaming
from gateway.dialects.anthropic.usage import AnthropicEvents
from gateway.dialects.openai.events import OpenAIEvents
from gateway.dialects.openai_responses.answer import ResponseEvents
from gateway.dialects.streaming import MAX_EVENT_BYTES, SseTap, event_data, first_marked
from tests.gateway.dialects.openai_streams import DONE, EVENTS, READER, event, run, says, usage_event, used
from tests.support.compiled import on_sources


def test_whole_events_pass_at_once_and_the_end_waits():
    tap = SseTap(READER)
    first = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
    assert tap.feed(first) == first
    assert not tap.began_output
    assert tap.feed(says("Hel")) == says("Hel")
    assert tap.began_output
    assert not tap.done
    assert tap.feed(usage_event(3, 4) + DONE + b": bye\n\n") == usage_event(3, 4)
    assert tap.done
    assert tap.feed(b": still there\n\n") == b""
    assert used(tap) == (3, 4)
    assert tap.finish() == DONE + b": bye\n\n: still there\n\n"
    assert tap.finish() == b""


def test_what_is_null_is_not_read_and_no_event_is_searched_for_again():
    class Watched(OpenAIEvents):
        seen: list[bytes]

        def facts(self, data: bytes) -> Any:
            self.seen.append(data)
            return super().facts(data)

    reader = Watched()
    for nothing in (b":null", b": null"):
        reader.seen, tap = [], SseTap(reader)
        begun = b'data: {"error"%b,"usage"%b,"choices":[]}\n\n' % (nothing, nothing)
        fault = b'data: {"error"%b,"more":{"error":{"message":"x"}}}\n\n' % nothing
        passed, held = run(tap, [begun + says("a") + fault + says("b") + begun + usage_event(3, 4) + begun + DONE])
        assert passed + held == begun + says("a") + fault + says("b") + begun + usage_event(3, 4) + begun + DONE
        assert [each.startswith(b'{"error"') for each in reader.seen] == [True, False]
        assert used(tap) == (3, 4)
    markers, positions = (b"U", b"e", b"t"), [-1, -1, -1]
    block = b"e:null e:0 t U e:null t"
    assert [first_marked(block, at, positions, markers, re.compile(b"U")) for at in (0, 8, 12, 14)] == [7, 11, 13, 22]
    assert positions == [len(block), len(block), 22]


def test_while_nothing_is_removed_a_cut_event_passes_at_once():
    tap = SseTap(READER)
    for piece in (b'data: {"choi', b"ces", b'":[]}\n', b"\n: comm", b"ent\n"):
        assert tap.feed(piece) == piece


def test_no_byte_of_the_terminal_event_passes():
    for terminal in (DONE, b"data:[DONE]\r\n\r\n", b"data: [DONE]\n", b"data: [DONE]", b"data: [DONE] \n\n"):
        for strip in (False, True):
            tap = SseTap(READER, strip_usage=strip)
            assert tap.feed(says("x")) == says("x")
            assert b"".join(tap.feed(terminal[at : at + 1]) for at in range(len(terminal))) == b""
            tap.end()
            assert tap.done
            assert tap.finish() == terminal


def test_what_only_looks_like_the_end_passes():
    for harmless in (b"data: [DONE\n\n", b"data: [DONE]x\n\n", says("data: [DONE]"), b"[DONE]\n\n", b": [DONE]\n\n"):
        tap = SseTap(READER)
        assert run(tap, [harmless[at : at + 1] for at in range(len(harmless))]) == (harmless, b"")
        assert not tap.done


def test_a_terminal_event_with_other_lines_is_held_from_where_it_can_be():
    terminal = b"event: end\nid: 7\ndata: [DONE]\n\n"
    assert run(SseTap(READER), [says("x") + terminal]) == (says("x"), terminal)
    assert run(SseTap(READER, strip_usage=True), [terminal[:20], terminal[20:]]) == (b"", terminal)
    passed, rest = run(SseTap(READER), [terminal[:10], terminal[10:]])
    assert passed + rest == terminal
    assert b"[DONE]" in rest


def test_a_finish_reason_is_an_end_too():
    for text in ('{"choices":[{"finish_reason":"stop"}]}', '{"choices": [{"finish_reason": "length"}]}'):
        tap = SseTap(READER)
        tap.feed(b"data: " + text.encode() + b"\n\n")
        assert tap.done


@pytest.mark.parametrize("keep_bytes", [0, 150, 1 << 20])
def test_an_end_is_found_whether_or_not_its_event_was_kept(keep_bytes):
    finish = b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'
    for before, after in ((0, 0), (3, 0), (0, 3), (3, 3)):
        tap = SseTap(READER, keep_bytes=keep_bytes)
        for _ in range(before):
            tap.feed(says("x"))
            assert not tap.done
        tap.feed(finish)
        for _ in range(after):
            tap.feed(says("y"))
        tap.end()
        assert tap.done


def test_an_error_event_is_seen():
    tap = SseTap(READER)
    assert tap.feed(event(error=None)) == event(error=None)
    assert not tap.error_seen
    assert tap.feed(event(error={"message": "overloaded"})) == event(error={"message": "overloaded"})
    assert tap.error_seen


def test_the_last_usage_wins_and_nothing_is_added():
    tap = SseTap(READER, strip_usage=True)
    chunks = [says("a", usage={"prompt_tokens": 5, "completion_tokens": n}) for n in (1, 2, 3)]
    assert run(tap, [*chunks, says("b", usage=None)]) == (b"".join(chunks) + says("b"), b"")
    assert used(tap) == (5, 3)


def test_usage_of_groq():
    tap = SseTap(READER, strip_usage=True)
    last = event(
        choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}],
        x_groq={"usage": {"prompt_tokens": 5, "completion_tokens": 6}},
    )
    assert tap.feed(last) == last
    assert used(tap) == (5, 6)


def test_only_the_usage_chunk_is_removed():
    filters = event(choices=[], prompt_filter_results=[], usage=None)
    failed = usage_event(1, 1, error={"message": "x"})
    chunks = [filters, says("a", usage=None), usage_event(7, 8), failed, DONE]
    left = event(choices=[], prompt_filter_results=[]) + says("a") + failed
    assert run(SseTap(READER, strip_usage=True), chunks) == (left, DONE)
    assert run(SseTap(READER, strip_usage=True), [b"".join(chunks)]) == (left, DONE)
    assert run(SseTap(READER), chunks) == (b"".join(chunks[:-1]), DONE)


def test_a_usage_chunk_that_says_nothing_is_removed():
    tap = SseTap(READER, strip_usage=True)
    assert run(tap, [usage_event(0, 0) + DONE]) == (b"", DONE)
    assert tap.reported.counts_nothing


def test_zeros_take_the_place_of_no_other_count():
    tap = SseTap(READER)
    run(tap, [usage_event(0, 0), says("x"), usage_event(3, 4), usage_event(0, 0), DONE])
    assert used(tap) == (3, 4)


def test_a_usage_chunk_without_an_empty_line_at_the_very_end():
    tap = SseTap(READER, strip_usage=True)
    last = usage_event(7, 8).rstrip()
    assert run(tap, [says("a"), last]) == (says("a"), b"")
    assert used(tap) == (7, 8)
    tap = SseTap(READER)
    assert run(tap, [says("a"), last]) == (says("a") + last, b"")
    assert used(tap) == (7, 8)


def test_the_cost_is_added_to_the_last_usage_chunk_alone():
    chunks = [says("a"), usage_event(1, 1), usage_event(7, 8), b": ping\n\n", DONE]
    tap = SseTap(READER, hold_usage=True)
    passed, rest = run(tap, chunks, "0.000012")
    assert passed == says("a") + usage_event(1, 1)
    told = {"cost_usd": "0.000012", "charge_usd": "0.000012"}
    charged = event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 8, **told})
    assert rest == charged + b": ping\n\n" + DONE
    assert used(tap) == (7, 8)


def test_the_cost_keeps_the_lines_of_its_event():
    written = b': c\r\nid: 1\r\ndata:{"choices":[],\r\ndata: "usage":{"prompt_tokens":1}}\r\n\r\n'
    _, rest = run(SseTap(READER, hold_usage=True), [written], "0.01")
    told = b'{"prompt_tokens":1,"cost_usd":"0.01","charge_usd":"0.01"}'
    assert rest == b': c\r\nid: 1\r\ndata: {"choices":[],"usage":' + told + b"}\r\n\r\n"


def test_usage_beside_content_carries_the_cost_when_it_comes_last():
    last = says("a", usage={"prompt_tokens": 1, "completion_tokens": 1})
    passed, rest = run(SseTap(READER, hold_usage=True), [last], "0.01")
    assert passed == b""
    assert b'"charge_usd":"0.01"' in rest
    passed, rest = run(SseTap(READER, hold_usage=True), [last, says("b")], "0.01")
    assert (passed, rest) == (last + says("b"), b"")


def test_without_a_cost_the_held_chunk_is_as_it_was():
    assert run(SseTap(READER, hold_usage=True), [usage_event(1, 1), DONE]) == (b"", usage_event(1, 1) + DONE)


def test_comments_after_held_usage_are_bounded():
    tap = SseTap(READER, hold_usage=True)
    comment = b":" + b"." * 1000 + b"\n\n"
    passed = b"".join(tap.feed(chunk) for chunk in [usage_event(1, 1)] + [comment] * 1100)
    assert len(passed) > 1000 * 1000
    assert passed + tap.finish() == usage_event(1, 1) + comment * 1100


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("piece_bytes", [1000, 65_537, 3 << 20])
def test_an_event_above_its_bound_passes_unread(strip, piece_bytes):
    huge = usage_event(1, 1, padding="x" * (2 * MAX_EVENT_BYTES))
    stream = says("a") + huge.replace(b'"usage"', b'"used"') + says("b") + usage_event(7, 8) + DONE
    tap = SseTap(READER, strip_usage=strip)
    longest_wait = waiting = 0
    passed = b""
    for at in range(0, len(stream), piece_bytes):
        piece = stream[at : at + piece_bytes]
        out = tap.feed(piece)
        passed += out
        waiting += len(piece) - len(out)
        longest_wait = max(longest_wait, waiting)
    assert longest_wait <= MAX_EVENT_BYTES + piece_bytes
    assert passed + tap.finish() == (stream.replace(usage_event(7, 8), b"") if strip else stream)
    assert used(tap) == (7, 8)
    if piece_bytes < MAX_EVENT_BYTES:
        assert tap.output().text == "ab"
        assert tap.extrapolate(2) > 2


def test_what_follows_the_end_is_bounded():
    tap = SseTap(READER)
    for chunk in [DONE] + [b"x" * 65_536] * 40:
        assert tap.feed(chunk) == b""
    assert len(tap.finish()) == MAX_EVENT_BYTES


def test_output_text_goes_choice_by_choice():
    tap = SseTap(READER, strip_usage=True)
    for index, text in [(0, "Hé"), (1, "Wo"), (0, "llo "), (1, "rld")]:
        tap.feed(event(choices=[{"index": index, "delta": {"content": text}}]))
    tap.feed(says("cut")[:-5])
    assert tap.output().text == "Héllo World"
    assert tap.extrapolate(10) == 10


def test_beyond_the_bound_tokens_are_extrapolated():
    chunk = says("word")
    tap = SseTap(READER, keep_bytes=3 * len(chunk))
    for _ in range(10):
        tap.feed(chunk)
    assert tap.output().text == "word" * 3
    assert tap.extrapolate(3) == 10
    assert tap.extrapolate(4) == 14
    tap = SseTap(READER, keep_bytes=0)
    tap.feed(chunk)
    assert tap.output().text == ""
    assert tap.extrapolate(0) == len(chunk)


def test_an_end_that_broke_off_counts_where_nothing_was_kept():
    said = b'data: {"type":"response.output_text.delta","delta":"cut'
    tap = SseTap(ResponseEvents(), keep_bytes=1)
    tap.feed(said)
    tap.end()
    assert tap.output().text == "cut"
    assert tap.extrapolate(1) == 1 + len(said)


def test_event_data():
    assert event_data(b"event: x\r\ndata: a\r\ndata:b\r\n\r\n") == b"a\nb"
    assert event_data(b": comment\n\n") == b""


def test_a_comment_that_looks_like_usage_is_none():
    tap = SseTap(READER)
    run(tap, [usage_event(3, 4) + says("more") + b': "usage":{\n\n'])
    assert tap.stale


@pytest.mark.parametrize("keep_bytes", [0, 10_000])
def test_output_is_seen_whenever_it_is_asked_for(keep_bytes):
    tap = SseTap(READER, keep_bytes=keep_bytes)
    tap.feed(EVENTS[0])
    assert not tap.began_output
    tap.feed(EVENTS[0] + EVENTS[3])
    assert tap.began_output


def test_what_stands_before_the_first_usage_is_not_looked_through_for_it():
    class Noting(OpenAIEvents):
        def __init__(self) -> None:
            self.looked_through: list[bytes] = []

        def without_null_usage(self, block: bytes, at: int) -> tuple[bytes, int]:
            self.looked_through.append(block[at:])
            return super().without_null_usage(block, at)

    reader = Noting()
    before, null, last = says("a") * 50, says("b", usage=None), usage_event(3, 4)
    assert run(SseTap(reader, strip_usage=True), [before + null + last + DONE])[0] == before + says("b")
    assert reader.looked_through == [(null + last + DONE)[null.find(b'"usage"') :]]


@on_sources
def test_of_events_between_two_markers_none_is_looked_into(monkeypatch):
    seen = []

    def noted(event):
        seen.append(event)
        return event_data(event)

    monkeypatch.setattr(streaming, "event_data", noted)
    start = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":9}}}\n\n'
    delta = (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}\n\n'
    )
    last = b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":5}}\n\n'
    stop = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    tap = SseTap(AnthropicEvents())
    assert tap.feed(start + 3 * delta + last + 2 * delta + stop) == start + 3 * delta + last + 2 * delta
    assert seen == [start, last, stop]
    assert tap.stale
    assert tap.finish() == stop
