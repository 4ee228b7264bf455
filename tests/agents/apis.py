"""The APIs that agents speak, as the scripted provider reads and writes them: bodies, events in the order of
recordings, usage, and what models have thought in the encrypted form that clients send back.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.agents.scripts import Asked, Reply

Body = dict[str, Any]
# Fields that hold what a model has thought: they cost what was thought, whatever their length.
OPAQUE = frozenset({"encrypted_content", "signature", "thoughtSignature", "data"})
BYTES_PER_THOUGHT_TOKEN = 6
# How long sealed thoughts are, about as in recordings: a part of its own and so many bytes for each token.
SEALED_BYTES = 400
_numbers = count(1)


@dataclass(frozen=True)
class Used:
    """What the provider reports. Input holds what was cached, output what was thought."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    thought_tokens: int = 0


def sealed(tokens: int) -> str:
    """Return what stands for so many tokens of thought."""
    head = f"{next(_numbers):08d}:{tokens:08d}:".encode()
    return base64.b64encode(head + b"\x5a" * (SEALED_BYTES + BYTES_PER_THOUGHT_TOKEN * tokens)).decode()


def thought_in(text: str) -> int:
    """Return how many tokens of thought something sealed stands for."""
    try:
        return int(base64.b64decode(text)[9:17])
    except ValueError:
        return 0


def texts(value: object) -> Iterator[str]:
    """Yield every text of a body that a model reads, and the names of its fields."""
    match value:
        case str():
            yield value
        case dict():
            for name, each in value.items():
                if name not in OPAQUE:
                    yield name
                    yield from texts(each)
        case list():
            for each in value:
                yield from texts(each)


def thoughts(value: object) -> int:
    """Return how many tokens of thought a body holds in sealed form."""
    match value:
        case dict():
            return sum(
                thought_in(each) if name in OPAQUE and isinstance(each, str) else thoughts(each)
                for name, each in value.items()
            )
        case list():
            return sum(map(thoughts, value))
    return 0


def _said(value: object) -> str:
    return "\n".join(texts(value))


def _event(data: Body, kind: str | None = None) -> bytes:
    named = b"" if kind is None else f"event: {kind}\n".encode()
    return named + b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def _call_id(prefix: str) -> str:
    return f"{prefix}_{next(_numbers):024d}"


class Chat:
    """OpenAI's chat completions."""

    read_by_model = ("messages", "tools")

    def asked(self, body: Body) -> Asked:
        tools = frozenset(tool["function"]["name"] for tool in body.get("tools") or () if "function" in tool)
        last = max((at for at, each in enumerate(body["messages"]) if each["role"] == "user"), default=0)
        results = tuple(_said(each["content"]) for each in body["messages"][last:] if each["role"] == "tool")
        return Asked(_said([each.get("content") for each in body["messages"]]), tools, results)

    def _message(self, reply: Reply) -> Body:
        message: Body = {"role": "assistant", "content": reply.text or None}
        if reply.call is not None:
            called = {"name": reply.call.name, "arguments": json.dumps(dict(reply.call.arguments))}
            message["tool_calls"] = [{"id": _call_id("call"), "type": "function", "function": called}]
        return message

    def _made(self, body: Body, kind: str) -> Body:
        return {"id": _call_id("chatcmpl"), "object": kind, "created": 1_790_000_000, "model": body["model"]}

    def whole(self, body: Body, reply: Reply, used: Used) -> Body:
        finish = "stop" if reply.call is None else "tool_calls"
        choice = {"index": 0, "message": self._message(reply), "finish_reason": finish, "logprobs": None}
        return {**self._made(body, "chat.completion"), "choices": [choice], "usage": self._usage(used)}

    def events(self, body: Body, reply: Reply, used: Used) -> Iterator[bytes]:
        made = self._made(body, "chat.completion.chunk")

        def chunk(delta: Body, finish: str | None = None) -> bytes:
            return _event({**made, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        message = self._message(reply)
        yield chunk({"role": "assistant", "content": ""})
        for word in _words(reply.text):
            yield chunk({"content": word})
        for called in message.get("tool_calls", ()):
            function = called["function"]
            yield chunk({"tool_calls": [{"index": 0, **called, "function": {**function, "arguments": ""}}]})
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": function["arguments"]}}]})
        yield chunk({}, "stop" if reply.call is None else "tool_calls")
        if (body.get("stream_options") or {}).get("include_usage"):
            yield _event({**made, "choices": [], "usage": self._usage(used)})
        yield b"data: [DONE]\n\n"

    def _usage(self, used: Used) -> Body:
        return {
            "prompt_tokens": used.input_tokens,
            "completion_tokens": used.output_tokens,
            "total_tokens": used.input_tokens + used.output_tokens,
            "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": used.thought_tokens},
        }


class Responses:
    """OpenAI's Responses API, whole, streamed and over WebSockets. Before each answer stands what was thought."""

    read_by_model = ("instructions", "input", "tools")

    def asked(self, body: Body) -> Asked:
        given = body["input"]
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        last = max((at for at, each in enumerate(items) if each.get("role") == "user"), default=0)
        outputs = ("function_call_output", "custom_tool_call_output")
        results = tuple(_said(each["output"]) for each in items[last:] if each.get("type") in outputs)
        offered = [
            *(body.get("tools") or ()),
            *(tool for each in items if each.get("type") == "additional_tools" for tool in each["tools"]),
        ]
        return Asked(_said([self._content(each) for each in items]), frozenset(self._names(offered)), results)

    def _content(self, item: Body) -> Any:
        """Return what an item says. A provider seals what agents say to each other; this one leaves it open."""
        parts = item.get("content")
        if item.get("type") != "agent_message":
            return parts
        return [part.get("encrypted_content", part) for part in parts]

    def _names(self, tools: list[Body]) -> Iterator[str]:
        for tool in tools:
            yield from self._names(tool["tools"]) if tool["type"] == "namespace" else [tool.get("name", tool["type"])]

    def _items(self, body: Body, reply: Reply, used: Used) -> list[Body]:
        items: list[Body] = []
        if used.thought_tokens:
            thought: Body = {"id": _call_id("rs"), "type": "reasoning", "summary": []}
            if "reasoning.encrypted_content" in (body.get("include") or ()):
                thought["encrypted_content"] = sealed(used.thought_tokens)
            items.append(thought)
        if reply.text:
            content = [{"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}]
            items.append({"id": _call_id("msg"), "type": "message", "role": "assistant", "content": content})
        if (call := reply.call) is not None:
            group = {} if call.namespace is None else {"namespace": call.namespace}
            item: Body = {"call_id": _call_id("call"), "name": call.name, **group}
            if call.text is None:
                item |= {"id": _call_id("fc"), "type": "function_call", "arguments": json.dumps(dict(call.arguments))}
            else:
                item |= {"id": _call_id("ctc"), "type": "custom_tool_call", "input": call.text}
            items.append(item)
        return [item if item["type"] == "reasoning" else {**item, "status": "completed"} for item in items]

    def _response(self, body: Body) -> Body:
        made = {"id": _call_id("resp"), "object": "response", "created_at": 1_790_000_000, "model": body["model"]}
        asked = {"tool_choice": "auto", "tools": [], "parallel_tool_calls": True, "store": body.get("store", True)}
        return {**made, **asked, "error": None, "incomplete_details": None, "instructions": None, "metadata": {}}

    def whole(self, body: Body, reply: Reply, used: Used) -> Body:
        output = self._items(body, reply, used)
        return {**self._response(body), "status": "completed", "output": output, "usage": self._usage(used)}

    def warmed(self, body: Body) -> Iterator[Body]:
        """Yield the events of a request that is to make no output."""
        response = self._response(body)
        yield {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}}
        done = {**response, "status": "completed", "output": [], "usage": self._usage(Used(0, 0))}
        yield {"type": "response.completed", "response": done}

    def said(self, body: Body, reply: Reply, used: Used) -> Iterator[Body]:
        """Yield the events of an answer."""
        for at, event in enumerate(self._said(body, reply, used)):
            yield {**event, "sequence_number": at}

    def _said(self, body: Body, reply: Reply, used: Used) -> Iterator[Body]:
        whole = self.whole(body, reply, used)
        begun = {**whole, "status": "in_progress", "output": [], "usage": None}
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        for index, item in enumerate(whole["output"]):
            yield from self._item(index, item)
        yield {"type": "response.completed", "response": whole}

    def _item(self, index: int, item: Body) -> Iterator[Body]:
        at = {"item_id": item["id"], "output_index": index}
        begun, opened = {**item, "status": "in_progress"}, {**at, "content_index": 0}
        match item["type"]:
            case "message":
                text = item["content"][0]["text"]
                part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                yield {"type": "response.output_item.added", "output_index": index, "item": {**begun, "content": []}}
                yield {"type": "response.content_part.added", **opened, "part": part}
                for word in _words(text):
                    yield {"type": "response.output_text.delta", **opened, "delta": word, "logprobs": []}
                yield {"type": "response.output_text.done", **opened, "text": text, "logprobs": []}
                yield {"type": "response.content_part.done", **opened, "part": {**part, "text": text}}
            case "function_call":
                added = {**begun, "arguments": ""}
                yield {"type": "response.output_item.added", "output_index": index, "item": added}
                called = item["arguments"]
                yield {"type": "response.function_call_arguments.delta", **at, "delta": called}
                done = {"name": item["name"], "arguments": called}
                yield {"type": "response.function_call_arguments.done", **at, **done}
            case "custom_tool_call":
                yield {"type": "response.output_item.added", "output_index": index, "item": {**begun, "input": ""}}
                yield {"type": "response.custom_tool_call_input.delta", **at, "delta": item["input"]}
                yield {"type": "response.custom_tool_call_input.done", **at, "input": item["input"]}
            case _:
                yield {"type": "response.output_item.added", "output_index": index, "item": item}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}

    def events(self, body: Body, reply: Reply, used: Used) -> Iterator[bytes]:
        return (_event(event, event["type"]) for event in self.said(body, reply, used))

    def _usage(self, used: Used) -> Body:
        return {
            "input_tokens": used.input_tokens,
            "input_tokens_details": {"cached_tokens": used.cached_tokens},
            "output_tokens": used.output_tokens,
            "output_tokens_details": {"reasoning_tokens": used.thought_tokens},
            "total_tokens": used.input_tokens + used.output_tokens,
        }


class Messages:
    """Anthropic's messages. Where thinking is on, a sealed thought stands before each answer."""

    read_by_model = ("system", "messages", "tools")

    def asked(self, body: Body) -> Asked:
        tools = frozenset(tool["name"] for tool in body.get("tools") or ())
        blocks = [
            block
            for each in body["messages"]
            for block in (
                [{"type": "text", "text": each["content"]}] if isinstance(each["content"], str) else each["content"]
            )
        ]
        results = tuple(_said(block.get("content")) for block in blocks if block["type"] == "tool_result")
        said = [block["text"] for block in blocks if block["type"] == "text"]
        return Asked("\n".join(said), tools, results)

    def _blocks(self, reply: Reply, used: Used) -> list[Body]:
        blocks: list[Body] = []
        if used.thought_tokens:
            blocks.append({"type": "thinking", "thinking": "", "signature": sealed(used.thought_tokens)})
        if reply.text:
            blocks.append({"type": "text", "text": reply.text})
        if reply.call is not None:
            called = {"name": reply.call.name, "input": dict(reply.call.arguments)}
            blocks.append({"type": "tool_use", "id": _call_id("toolu"), **called})
        return blocks

    def whole(self, body: Body, reply: Reply, used: Used) -> Body:
        return {
            "id": _call_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": self._blocks(reply, used),
            "stop_reason": "end_turn" if reply.call is None else "tool_use",
            "stop_sequence": None,
            "usage": self._usage(used),
        }

    def events(self, body: Body, reply: Reply, used: Used) -> Iterator[bytes]:
        whole = self.whole(body, reply, used)
        begun = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
        yield _event({"type": "message_start", "message": begun}, "message_start")
        for index, block in enumerate(whole["content"]):
            for event in self._block(block):
                yield _event({"type": event["type"], "index": index, **event}, event["type"])
        ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        yield _event({"type": "message_delta", "delta": ended, "usage": whole["usage"]}, "message_delta")
        yield _event({"type": "message_stop"}, "message_stop")

    def _block(self, block: Body) -> Iterator[Body]:
        empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}
        deltas: list[Body]
        match block["type"]:
            case "text":
                deltas = [{"type": "text_delta", "text": word} for word in _words(block["text"])]
            case "thinking":
                deltas = [{"type": "signature_delta", "signature": block["signature"]}]
            case _:
                deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        yield {"type": "content_block_start", "content_block": {**block, **empty[block["type"]]}}
        yield from ({"type": "content_block_delta", "delta": delta} for delta in deltas)
        yield {"type": "content_block_stop"}

    def _usage(self, used: Used) -> Body:
        return {
            "input_tokens": used.input_tokens - used.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": used.cached_tokens,
            "output_tokens": used.output_tokens,
            "service_tier": "standard",
        }


class Gemini:
    """Gemini's generateContent and its stream. A call carries a sealed thought."""

    read_by_model = ("systemInstruction", "contents", "tools")

    def asked(self, body: Body) -> Asked:
        tools = frozenset(
            declared["name"] for tool in body.get("tools") or () for declared in tool.get("functionDeclarations") or ()
        )
        parts = [part for content in body["contents"] for part in content["parts"]]
        results = tuple(_said(part["functionResponse"]["response"]) for part in parts if "functionResponse" in part)
        return Asked("\n".join(part["text"] for part in parts if "text" in part), tools, results)

    def _answer(self, body: Body, parts: list[Body], finish: str | None, used: Used) -> Body:
        content = {"content": {"role": "model", "parts": parts}, "index": 0}
        candidate = {**content, **({"finishReason": finish} if finish else {})}
        return {"candidates": [candidate], "usageMetadata": self._usage(used), "responseId": _call_id("r")}

    def _parts(self, reply: Reply, used: Used) -> list[Body]:
        parts: list[Body] = [{"text": reply.text}] if reply.text else []
        if reply.call is not None:
            called = {"name": reply.call.name, "args": dict(reply.call.arguments)}
            parts.append({"functionCall": called, "thoughtSignature": sealed(used.thought_tokens)})
        return parts

    def whole(self, body: Body, reply: Reply, used: Used) -> Body:
        return self._answer(body, self._parts(reply, used), "STOP", used)

    def events(self, body: Body, reply: Reply, used: Used) -> Iterator[bytes]:
        for part in self._parts(reply, used):
            yield _event(self._answer(body, [part], None, used))
        yield _event(self._answer(body, [{"text": ""}], "STOP", used))

    def _usage(self, used: Used) -> Body:
        written = used.output_tokens - used.thought_tokens
        return {
            "promptTokenCount": used.input_tokens,
            "cachedContentTokenCount": used.cached_tokens,
            "candidatesTokenCount": written,
            "thoughtsTokenCount": used.thought_tokens,
            "totalTokenCount": used.input_tokens + used.output_tokens,
        }


def _words(text: str) -> list[str]:
    return [piece for piece in text.replace(" ", " \0").split("\0") if piece]
