"""The requests and answers of the benchmark. The generator and the upstream both know them, so both can check bytes."""

import json
import random
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import Final

Headers = tuple[tuple[str, str], ...]

MODEL: Final = "bench"
# By its name a model whose vocabulary is known, so that its prompts can be counted; priced as the other one.
COUNTED_MODEL: Final = "gpt-4o-bench"
PATH: Final = b"/v1/chat/completions"
INPUT_TOKENS: Final = 120
OUTPUT_TOKENS: Final = 80
INPUT_USD_PER_MILLION: Final = "0.15"
OUTPUT_USD_PER_MILLION: Final = "0.60"
# What one answer costs at those prices, in nano-USD: 0.15 USD a million tokens is 150 nano-USD a token.
COST_NANO: Final = INPUT_TOKENS * 150 + OUTPUT_TOKENS * 600

STREAM_CHUNKS: Final = 50
# Between two chunks of a stream; a stream takes a second.
STREAM_PAUSE_S: Final = 0.02
# The same of a slow stream, which takes 20 seconds.
SLOW_PAUSE_S: Final = 0.4
# In a request for a slow stream.
SLOW_MARK: Final = b'"user":"slow"'
# In a request for a stream all of which comes at once.
BURST_MARK: Final = b'"user":"burst"'
# In a request for a stream of LONG_EVENTS, of which LONG_AT_ONCE come at once, LONG_PAUSE_S apart.
LONG_MARK: Final = b'"user":"long"'
LONG_EVENTS: Final = 2_000
LONG_LAST_WORD: Final = b" word%d" % (LONG_EVENTS - 1)
LONG_AT_ONCE: Final = 10
LONG_PAUSE_S: Final = 0.02
# Before its end, which is the time for weighing whoever passes it on.
LONG_REST_S: Final = 4.0
# In a request whose answer is to say its usage: what a client did not ask for is asked for by who meters it.
USAGE_MARK: Final = b'"include_usage":true'

_USAGE: Final = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
ANSWER_TEXT: Final = "The bridge was closed for repairs, so the ferry ran twice an hour until the end of the month."
_QUESTION: Final = "Why did the ferry run more often in spring? "
_SENTENCES: Final = (
    "harbour, timetable, 1974; the council's minutes don't say who paid.\n\nRepairs (steel, paint & rivets) took "
    'eleven weeks, which "nobody" had foreseen: storms, a strike, then an inquiry. '
)
_WORDS_SEED: Final = 20260101


def compact(value: object) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


# A chat completion of about 600 bytes.
ANSWER_BODY: Final = compact(
    {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ANSWER_TEXT, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_b376dfbbd5",
    }
)

# What an answer tells of itself, which differs from answer to answer as OpenAI's does.
_ANSWER_LINES: Final = (
    b"openai-processing-ms: %d\r\nopenai-version: 2020-10-01\r\nx-request-id: req_%032x\r\n"
    b"x-ratelimit-limit-requests: 10000\r\nx-ratelimit-limit-tokens: 2000000\r\n"
    b"x-ratelimit-remaining-requests: %d\r\nx-ratelimit-remaining-tokens: %d\r\n"
    b"x-ratelimit-reset-requests: %dms\r\nx-ratelimit-reset-tokens: %dms\r\n"
    b"Date: %b\r\nServer: bench\r\n"
)
_BEGAN_S: Final = 1_767_225_600
ANSWERS_PER_S: Final = 1_000


@lru_cache(maxsize=1)
def _date(seconds: int) -> bytes:
    return formatdate(_BEGAN_S + seconds, usegmt=True).encode()


def _answer_lines(number: int) -> bytes:
    """Return what the answer of this number tells of itself."""
    left, date = number % 997, _date(number // ANSWERS_PER_S)
    id_number = number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128)
    return _ANSWER_LINES % (4 + number % 7, id_number, 9_999 - left, 1_999_000 - 120 * left, 6 + left, 4 * left, date)


def answer(number: int = 0) -> bytes:
    """Return the answer of this number: the same body, under a head of its own."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        _answer_lines(number),
        len(ANSWER_BODY),
        ANSWER_BODY,
    )


def stream_head(number: int = 0) -> bytes:
    """Return the head of the stream of this number."""
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        b"%bTransfer-Encoding: chunked\r\n\r\n" % _answer_lines(number)
    )


STREAM_END: Final = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A chunk of HTTP."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(choices: list[object], **more: object) -> bytes:
    fields = {"id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG", "object": "chat.completion.chunk", "created": 1741570283}
    return b"data: " + compact({**fields, "model": MODEL, "choices": choices, **more}) + b"\n\n"


def _delta(number: int, end: str | None = None, **more: object) -> bytes:
    delta = {"content": f" word{number:02d}"}
    return _event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}], **more)


def _deltas(**more: object) -> tuple[bytes, ...]:
    """Return a stream's deltas, each a chunk of HTTP with one event of about 200 bytes."""
    ends = [None] * (STREAM_CHUNKS - 1) + ["stop"]
    return tuple(chunk(_delta(number, end, **more)) for number, end in enumerate(ends))


STREAM_EVENTS: Final = _deltas()
# The same as OpenAI sends them where usage is asked for, and before the end the usage.
STREAM_EVENTS_NO_USAGE_YET: Final = _deltas(usage=None)
STREAM_USAGE: Final = chunk(_event([], usage=_USAGE))
STREAM_DONE: Final = chunk(b"data: [DONE]\n\n")
STREAM_LAST: Final = STREAM_USAGE + STREAM_DONE + STREAM_END
BURST_CHUNKS: Final = STREAM_CHUNKS + 2
_LONG_PART: Final = tuple(
    b"".join(chunk(_delta(number, usage=None)) for number in range(start, start + LONG_AT_ONCE))
    for start in range(0, LONG_EVENTS, LONG_AT_ONCE)
)


def stream_events(request: bytes) -> tuple[bytes, ...]:
    """Return what the upstream writes for a streamed request, piece after piece, but for the head and `STREAM_LAST`."""
    if LONG_MARK in request:
        return _LONG_PART
    return STREAM_EVENTS_NO_USAGE_YET if USAGE_MARK in request else STREAM_EVENTS


def burst(request: bytes) -> bytes:
    """Return all of a stream behind its head, in one piece, as it comes from an upstream that has been waited for, or
    writes fast."""
    return b"".join(stream_events(request)) + STREAM_LAST


_REQUEST_HEADERS: Final = {
    "Host": "gateway.example.com",
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": "OpenAI/Python 2.15.0",
    "Content-Type": "application/json",
}


def prompt(prompt_bytes: int) -> str:
    """So many bytes of text that looks like a language to a tokenizer: words, numbers and signs, in no fixed order."""
    choice = random.Random(_WORDS_SEED)  # noqa: S311 - the same text in every run
    paragraph = " ".join(choice.choices(_SENTENCES.split(" "), k=2_000)) + " "
    return (paragraph * (prompt_bytes // len(paragraph) + 1))[:prompt_bytes]


def request(
    secret: str,
    *,
    stream: bool = False,
    user: str | None = None,
    prompt_bytes: int = 0,
    model: str = MODEL,
    headers: Headers = (),
) -> bytes:
    """One request as an OpenAI client sends it: about 600 bytes, and `prompt_bytes` more of prompt. Its `user` says
    which kind of stream it asks for: `slow`, whose chunks come SLOW_PAUSE_S apart, `burst`, whose chunks come at once,
    or `long`; `headers` are sent besides, or instead."""
    messages = [
        {"role": "system", "content": "You are a terse assistant. Answer in one sentence and add nothing to it."},
        {"role": "user", "content": _QUESTION + prompt(prompt_bytes)},
    ]
    fields = {"model": model, "messages": messages, "temperature": 0.2, "max_tokens": 256}
    if stream or user is not None:
        fields["stream"] = True
    if user is not None:
        fields["user"] = user
    return posted(PATH, compact(fields), {"Authorization": f"Bearer {secret}", **dict(headers)})


def posted(path: bytes, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A request as a client sends it; `headers` are sent besides the usual ones, or instead."""
    lines = {**_REQUEST_HEADERS, **headers, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return b"POST %s HTTP/1.1\r\n%s\r\n" % (path, head.encode()) + body
