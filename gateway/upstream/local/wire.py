"""How the local provider answers: OpenAI's JSON objects and SSE events, byte for byte in their shape.

Shapes are those of the API reference: chat.completion, chat.completion.chunk, text_completion, list of embeddings.
With `stream_options.include_usage` each chunk has `"usage":null`, and one more at the end has the usage and no choices;
without it no chunk has a `usage` at all.
"""

import sys
from array import array
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from gateway.upstream.local.text import Said

FINGERPRINT = "fp_local"
DONE = b"data: [DONE]\n\n"

_json = msgspec.json.encode


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, object]:
    """The usage of a chat or text completion; nothing here is cached, heard or reasoned."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def chat_envelope(answer_id: str, created_s: int, model: str, service_tier: str) -> dict[str, object]:
    """What a chat's answer and all of its chunks begin with; a stream's `object` is put in by `events`."""
    return {
        "id": f"chatcmpl-{answer_id}",
        "object": "chat.completion",
        "created": created_s,
        "model": model,
        "service_tier": service_tier,
        "system_fingerprint": FINGERPRINT,
    }


def completion_envelope(answer_id: str, created_s: int, model: str) -> dict[str, object]:
    """What a text completion and all of its chunks begin with."""
    return {"id": f"cmpl-{answer_id}", "object": "text_completion", "created": created_s, "model": model}


def chat_answer(envelope: dict[str, object], choices: Sequence[Said], counted: dict[str, object]) -> bytes:
    """A `chat.completion`."""
    return _json(
        envelope
        | {
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": said.text, "refusal": None, "annotations": []},
                    "logprobs": None,
                    "finish_reason": said.finish_reason,
                }
                for index, said in enumerate(choices)
            ],
            "usage": counted,
        }
    )


def completion_answer(envelope: dict[str, object], choices: Sequence[Said], counted: dict[str, object]) -> bytes:
    """A `text_completion`."""
    return _json(
        envelope
        | {
            "choices": [
                {"text": said.text, "index": index, "logprobs": None, "finish_reason": said.finish_reason}
                for index, said in enumerate(choices)
            ],
            "usage": counted,
        }
    )


def chat_events(
    envelope: dict[str, object], choices: Sequence[Said], counted: dict[str, object] | None
) -> Iterator[bytes]:
    """A chat's SSE events: per choice its role, its words and its end. `counted` is None where no usage was asked."""
    head, tail = _frame(envelope | {"object": "chat.completion.chunk"}, counted is not None)
    yield from _round_robin([_chat_choice(head, tail, index, said) for index, said in enumerate(choices)])
    yield from _end(head, counted)


def completion_events(
    envelope: dict[str, object], choices: Sequence[Said], counted: dict[str, object] | None
) -> Iterator[bytes]:
    """A text completion's SSE events."""
    head, tail = _frame(envelope, counted is not None)
    yield from _round_robin([_completion_choice(head, tail, index, said) for index, said in enumerate(choices)])
    yield from _end(head, counted)


def embedding_item(index: int, vector: "array[float]", as_base64: bool) -> bytes:
    """One element of an embeddings answer's `data`; msgspec writes bytes as base64."""
    if as_base64:
        return _json({"object": "embedding", "index": index, "embedding": _little_endian(vector)})
    return _json({"object": "embedding", "index": index, "embedding": [round(value, 9) for value in vector]})


def embedding_answer(model: str, items: Sequence[bytes], tokens: int) -> bytes:
    """An embeddings answer around its encoded items."""
    rest = _json({"model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
    return b'{"object":"list","data":[' + b",".join(items) + b"]," + rest[1:]


def _frame(envelope: dict[str, object], with_usage: bool) -> tuple[bytes, bytes]:
    """What stands before and after a chunk's one choice, encoded once per stream."""
    head = b"data: " + _json(envelope)[:-1] + b',"choices":['
    return head, (b'],"usage":null}\n\n' if with_usage else b"]}\n\n")


def _end(head: bytes, counted: dict[str, object] | None) -> Iterator[bytes]:
    if counted is not None:
        yield head + b'],"usage":' + _json(counted) + b"}\n\n"
    yield DONE


def _chat_choice(head: bytes, tail: bytes, index: int, said: Said) -> Iterator[bytes]:
    before = head + b'{"index":%d,"delta":' % index
    going_on = b',"logprobs":null,"finish_reason":null}' + tail
    yield before + b'{"role":"assistant","content":"","refusal":null}' + going_on
    for piece in said.pieces():
        yield before + b'{"content":' + _json(piece) + b"}" + going_on
    yield before + b'{},"logprobs":null,"finish_reason":' + _json(said.finish_reason) + b"}" + tail


def _completion_choice(head: bytes, tail: bytes, index: int, said: Said) -> Iterator[bytes]:
    after = b',"index":%d,"logprobs":null,"finish_reason":' % index
    for piece in said.pieces():
        yield head + b'{"text":' + _json(piece) + after + b"null}" + tail
    yield head + b'{"text":""' + after + _json(said.finish_reason) + b"}" + tail


def _round_robin(choices: list[Iterator[bytes]]) -> Iterator[bytes]:
    waiting = deque(choices)
    while waiting:
        choice = waiting.popleft()
        for event in choice:
            yield event
            waiting.append(choice)
            break


def _little_endian(vector: "array[float]") -> bytes:
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return vector.tobytes()
