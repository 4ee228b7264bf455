"""What is taken out of bodies, whatever they look like; and that nothing else is."""

import base64
import json
import re
import time

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.body_logs.redaction import MOST_MATCHES, TAIL_CHARACTERS, Redactor, _Found
from gateway.body_logs.rules import passes_luhn, replaced, rules_of
from gateway.config.body_logs import PRESETS, Redact
from tests.support.answering import DONE, delta, event, usage_chunk

ALL = Redactor(Redact(), 1 << 20)
CARDS = ("4111 1111 1111 1111", "4111111111111111", "5555-5555-5555-4444", "3782 822463 10005", "378282246310005")
KEYS = (
    "mg_" + "a" * 38,
    "mga_" + "aB3_-" * 9,
    "mgr_" + "aB3_-" * 9,
    "mgs_" + "aB3_-" * 20,
    "sk-" + "proj-abcDEF0123456789",
    "sk_" + "live_0123456789abcdefgh",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "ghp_" + "0123456789abcdefghij0123456789abcdef",
    "Bearer 0123456789abcdef0123",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nMIIabc that is cut",
)
MAILS = ("ann@example.com", "ann.o'x+tag@sub.example.co.uk".replace("'", "-"), "änn@exämple.de", "ann%40example.com")
plain = st.text(st.characters(codec="utf-8", exclude_characters="@%"), max_size=20).filter(
    lambda text: not re.search(r"\d|[_-]|Bearer|bearer|basic", text)
)
secret = st.sampled_from((*CARDS, *MAILS, *KEYS[:9]))


def clean(value, redactor=ALL):
    return redactor.whole(json.dumps(value).encode())


@pytest.mark.parametrize("text", [*CARDS, *MAILS, *KEYS])
def test_what_presets_find(text):
    kept = clean({"messages": [{"content": f"so: {text} (so)" if "cut" not in text else f"so: {text}"}]})
    said = kept.body["messages"][0]["content"]
    assert text not in said
    assert said.startswith("so: [")
    assert sum(kept.redacted.values()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # no check digit
        "1234567890123456789012345",
        "2024-07-18 12:00 and 2025-07-18",
        "a @ b, user@host, @ann",
        "ask-me-later-about-the-task-list",
        "the bearer of good news",
        "v1.2.3-rc.4+build.5678901234567",
    ],
)
def test_what_presets_leave(text):
    assert clean({"content": text}).body == {"content": text}


values = st.recursive(
    plain | secret | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(plain | secret, inner),
    max_leaves=20,
)


@given(values)
def test_no_secret_stays_and_the_shape_does(value):
    kept = clean(value)
    if kept.left_out is not None:
        return
    text = json.dumps(kept.body, ensure_ascii=False)
    assert not [each for each in (*CARDS, *MAILS, *KEYS[:9]) if json.dumps(each, ensure_ascii=False)[1:-1] in text]
    again = clean(kept.body)
    assert again.body == kept.body
    assert type(kept.body) is type(msgspec.json.decode(json.dumps(value))) or isinstance(value, int)


@given(st.lists(plain | secret, min_size=1, max_size=6), st.data())
@example(["x", "ann@example.com", "y"], None)
def test_pieces_of_a_stream_are_read_as_one_text(parts, data):
    text = " ".join(parts)
    cuts = [] if data is None else sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[low:high] for low, high in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    body = b"".join(delta(piece) for piece in pieces) + DONE
    kept = ALL.stream(body, ended=True)
    said = [json.loads(each[6:]) for each in kept.body.split("\n\n") if each.startswith("data: {")]
    joined = "".join(each["choices"][0]["delta"]["content"] for each in said)
    assert joined == clean([text]).body[0]
    assert len(said) == len(pieces)


@given(st.lists(st.text(max_size=5), max_size=6), st.data())
def test_replacing_in_pieces_is_replacing_in_the_whole(pieces, data):
    whole = "".join(pieces)
    ends = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=6)))
    spans = [(low, high, "[x]") for low, high in zip(ends[::2], ends[1::2], strict=False)]
    expected, at = "", 0
    for low, high, instead in spans:
        expected, at = expected + whole[at:low] + instead, high
    assert "".join(replaced(pieces, spans)) == expected + whole[at:]
    assert len(replaced(pieces, spans)) == len(pieces)


def test_two_choices_of_a_stream_are_two_texts():
    pieces = [("ann@exa", 0), ("bob@", 1), ("mple.com", 0), ("home.org", 1)]
    body = b"".join(delta(text, index=index) for text, index in pieces) + DONE
    kept = ALL.stream(body, ended=True)
    assert kept.redacted == {"mail": 2}
    assert "mple.com" not in kept.body
    assert "home" not in kept.body


def test_events_of_other_apis_and_their_names_stay():
    texts = ("Write to ann@", "example.com.")
    made = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": each}} for each in texts
    ]
    body = b"".join(b"event: content_block_delta\n" + event(each) for each in made) + b": a comment ann@example.com\n\n"
    kept = ALL.stream(body, ended=True)
    assert kept.body.count("event: content_block_delta\ndata: {") == 2
    assert "Write to [mail]" in kept.body
    assert "ann@" not in kept.body
    listed = [{"candidates": [{"content": {"parts": [{"text": each}]}}]} for each in texts]
    kept = ALL.stream(json.dumps(listed).encode(), ended=True)
    assert [each["candidates"][0]["content"]["parts"][0]["text"] for each in kept.body] == ["Write to [mail]", "."]


def test_a_stream_that_was_cut_loses_the_ends_of_its_texts():
    body = delta("a" * 200) + delta("4111 1111 1111") + b'data: {"choices": [{"delta": {"conte'
    kept = ALL.stream(body, ended=False)
    said = [json.loads(each[6:])["choices"][0]["delta"]["content"] for each in kept.body.split("\n\n") if each]
    assert said == ["a" * (200 - TAIL_CHARACTERS + 14), ""]


def block(text, index=0):
    return event({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}})


@pytest.mark.parametrize(
    ("piece", "after"),
    [
        (block, event({"type": "ping"})),
        (block, event({"type": "content_block_stop", "index": 0})),
        (delta, usage_chunk()),
        (delta, delta(None)),
    ],
)
def test_no_event_after_the_last_piece_saves_the_end_of_a_text_that_was_cut(piece, after):
    one, two = piece("so: 4111 1111 1111"), piece("so: 4111") + piece(" 1111 1111")
    for body in (one + after, one + after * 3, two + after, two + piece("other", index=1) + after * 2):
        kept = ALL.stream(body, ended=False)
        assert "1111" not in kept.body
        assert kept.body.count("text_delta") == (body.count(b"text_delta"))
        assert kept.body.count('"chatcmpl-1"') == body.count(b"chatcmpl-1")


def test_items_with_an_index_are_one_text_wherever_they_stand():
    both = [{"index": 1, "delta": {"content": "bob@"}}, {"index": 0, "delta": {"content": "ann@exa"}}]
    later = [{"index": 0, "delta": {"content": "mple.com"}}, {"index": 1, "delta": {"content": "home.org"}}]
    kept = ALL.stream(b"".join(event({"choices": each}) for each in (both, later[:1], later[1:])) + DONE, ended=True)
    assert kept.redacted == {"mail": 2}
    assert not re.search("ann@|mple|bob@|home", kept.body)
    alike = [{"index": 0, "content": each} for each in ('{"a": "ann\\u0040example.com"}', "{}")]
    assert "example" not in json.dumps(clean(alike).body)


def test_of_a_name_that_is_there_twice_only_what_was_read_is_written():
    body = b'data: {"a": "ann@example.com", "a": "x"}\n\n'
    assert ALL.stream(body, ended=True).body == 'data: {"a":"x"}\n\n'
    redactor = Redactor(Redact((), (), (("password",),)), 1 << 20)
    assert clean(['{"a": {"password": "p"}, "a": 1}', '{"a":  1}'], redactor).body == ['{"a":1}', '{"a":  1}']
    assert clean(['{"a": "ann\\u0040example.com", "a": 1}', '{"a":  "\\u0040"}']).body == [
        '{"a":1}',
        '{"a":  "\\u0040"}',
    ]


def test_fields_are_taken_out_by_name_and_by_path():
    redactor = Redactor(Redact(PRESETS, (), (("password",), ("metadata", "user"), ("messages", "*", "name"))), 1 << 20)
    body = {
        "password": {"old": 1},
        "metadata": {"user": "u", "metadata": {"user": "stays"}},
        "messages": [{"name": "Ann", "content": "x"}, {"name": "Bob", "tool": [{"password": 5}]}],
        "arguments": '{"password": "p", "deep": "{\\"password\\": \\"q\\"}"}',
    }
    kept = clean(body, redactor)
    assert kept.body == {
        "password": "[field]",
        "metadata": {"user": "[field]", "metadata": {"user": "stays"}},
        "messages": [{"name": "[field]", "content": "x"}, {"name": "[field]", "tool": [{"password": "[field]"}]}],
        "arguments": '{"password":"[field]","deep":"{\\"password\\":\\"[field]\\"}"}',
    }
    pieces = ('{"pass', 'word": "p', '", "city": "Bonn"}')
    calls = [{"tool_calls": [{"index": 0, "function": {"arguments": each}}]} for each in pieces]
    calls = [{"choices": [{"index": 0, "delta": each}]} for each in calls]
    kept = redactor.stream(b"".join(map(event, calls)) + DONE, ended=True)
    assert '\\"password\\":\\"[field]\\",\\"city\\":\\"Bonn\\"' in kept.body
    assert kept.redacted == {"field": 1}


@pytest.mark.parametrize(
    "text", ['{"password": "p', '\n [{"password": "p"}', "{'password': 'p'}", "[" * 2000 + "password"]
)
def test_what_begins_as_json_but_cannot_be_read_has_no_field(text):
    redactor = Redactor(Redact((), (), (("password",),)), 1 << 20)
    kept = clean({"arguments": text, "else": "so: {"}, redactor)
    assert kept.body == {"arguments": "[field]", "else": "so: {"}
    assert kept.redacted == {"field": 1}
    assert clean(kept.body, redactor).body == kept.body
    kept = redactor.stream(b"".join(map(delta, text)) + DONE, ended=True)
    said = [json.loads(each[6:])["choices"][0]["delta"]["content"] for each in kept.body.split("\n\n")[:-2]]
    assert said == ["[field]", *[""] * (len(text) - 1)]
    assert clean({"arguments": text}).body == {"arguments": text}


def test_json_deep_in_texts_has_no_field():
    redactor, text = Redactor(Redact((), (), (("password",),)), 1 << 20), '{"password": "hidden"}'
    for _ in range(8):
        text = json.dumps({"deep": text})
    assert "hidden" not in json.dumps(clean([text], redactor).body)


def test_json_that_begins_late_is_looked_into():
    pieces = ["", " ", "\n", "", "", " ", '{"to": "ann\\u0040exa', 'mple.com"}']
    kept = ALL.stream(b"".join(map(delta, pieces)) + DONE, ended=True)
    assert kept.redacted == {"mail": 1}
    assert "mple.com" not in kept.body


def test_escapes_hide_nothing():
    body = rb'{"a": "ann\u0040example.com", "b": "{\"c\": \"ann\\u0040example.com\"}",'
    body += rb' "ann\u0040example.com": 4111111111111111}'
    kept = ALL.whole(body)
    assert kept.body == {"a": "[mail]", "b": '{"c":"[mail]"}', "[mail]": "[card]"}


def test_names_that_become_alike_keep_their_values():
    kept = clean({"a@b.de": 1, "c@d.de": {"x": "y"}, "e@f.de": "z"})
    assert sorted(map(str, kept.body.values())) == ["1", "z", "{'x': 'y'}"]


def test_many_names_that_become_alike_take_few_steps():
    class Counted(dict):
        asked = 0

        def __contains__(self, name):
            self.asked += 1
            return super().__contains__(name)

    names = [f"a{number}@b.co" for number in range(20_000)]
    taken = [f"[mail]_{number}" for number in range(100)]
    holder = Counted.fromkeys([*names, *taken], 0)
    ALL._walk([holder], _Found(), 0)
    assert len(holder) == 20_100
    assert holder.asked < 50_000
    assert max(map(len, holder)) == len("[mail]_20000")
    assert not [name for name in holder if "@" in name]


def test_images_and_long_texts_are_cut_after_they_were_read():
    redactor = Redactor(Redact(), 100)
    image = base64.b64encode(bytes(range(256)) * 40).decode()
    body = {
        "url": f"data:image/png;base64,{image}",
        "raw": image,
        "long": "word " * 40,
        "evil": "x " * 45 + "ann@example.com",
    }
    kept = clean(body, redactor)
    assert kept.body["url"] == f"data:image/png;base64,[{len(image)} characters]"
    assert kept.body["raw"] == f"[{len(image)} characters]"
    assert kept.body["long"] == ("word " * 20) + "[100 characters more]"
    assert "ann" not in kept.body["evil"]
    assert kept.cut == 3
    assert "example" not in clean({"url": "data:ann@example.com/x;base64,AAAA"}, redactor).body["url"]


@pytest.mark.parametrize("body", [b"{", b"no json", b'{"a": "\\ud800"}', b"\xff", b"[" * 5000 + b"]" * 5000])
def test_what_cannot_be_read_is_left_out(body):
    kept = ALL.whole(body)
    assert (kept.body, kept.left_out) == (None, "not_json")
    assert ALL.stream(b"data: " + body + b"\n\n", ended=True).body is None


def test_what_has_too_many_values_is_left_out():
    assert clean([1] * 100_001).left_out == "too_many_values"
    assert clean(["ann@example.com "] * 3).redacted == {"mail": 3}
    nested = "x"
    for _ in range(150):
        nested = [nested]
    assert clean(nested).left_out == "too_many_values"


def test_a_text_full_of_matches_is_taken_out_whole():
    kept = clean({"a": "a@b.de " * (MOST_MATCHES + 1), "b": "stays"})
    assert kept.body == {"a": "[redacted]", "b": "stays"}


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(a|aa)+b", r"(.*)*x", r"([a-z]+)*[0-9]"])
def test_no_pattern_backtracks(pattern):
    redactor = Redactor(Redact((), (pattern,)), 1 << 20)
    began_s = time.process_time()
    redactor.whole(json.dumps({"a": "a" * 500_000 + "!"}).encode())
    assert time.process_time() - began_s < 20


def test_secrets_of_the_gateway_are_found_as_they_are():
    secrets = ("s.cret+(key)*|x", "short", "geheim-mit-ä-und-€")
    redactor = Redactor(Redact(()), 1 << 20, secrets)
    assert clean({"a": f"<{secrets[0]}> <{secrets[2]}> short sXcret+(key)*|x"}, redactor).body == {
        "a": "<[key]> <[key]> short sXcret+(key)*|x"
    }


def test_keys_are_always_taken_out():
    assert [rule.name for rule in rules_of(Redact(()))] == ["key"]


@given(st.integers(10**12, 10**18))
def test_the_check_digit(number):
    digits = f"{number}"
    right = [each for each in "0123456789" if passes_luhn(digits + each)]
    assert len(right) == 1
