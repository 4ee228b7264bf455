"""Usage as providers write it, API by API (`answers.yaml`), and how more of it is made."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Answer(NamedTuple):
    """One answer's usage. `provider` and `flavor` are the names by which the package genai-prices reads it; `api` is
    the reader here that does."""

    name: str
    provider: str
    flavor: str
    api: str
    usage: dict[str, Any]
    more: dict[str, Any] = {}  # noqa: RUF012  (never changed)

    @property
    def body(self) -> dict[str, Any]:
        """The answer around it, as far as metering reads it."""
        if self.api == "gemini":
            return {
                "candidates": CANDIDATES,
                "modelVersion": "gemini-3-pro-preview",
                "usageMetadata": self.usage,
                **self.more,
            }
        return {"model": "some-model", "usage": self.usage, **_CONTENT.get(self.api, {}), **self.more}

    @property
    def text(self) -> bytes:
        return json.dumps(self.body).encode()


CANDIDATES = [{"content": {"role": "model", "parts": [{"text": "Hi."}]}, "finishReason": "STOP"}]
_CONTENT = {
    "chat": {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}}],
    },
    "responses": {"object": "response", "output": [{"type": "message", "content": [{"text": "Hi."}]}]},
    "messages": {"type": "message", "content": [{"type": "text", "text": "Hi."}]},
    "embeddings": {"object": "list", "data": []},
}


def chat(
    prompt: int,
    completion: int,
    inputs: dict[str, Any] | None = None,
    outputs: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Usage of chat completions."""
    message: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if inputs is not None:
        message["prompt_tokens_details"] = inputs
    if outputs is not None:
        message["completion_tokens_details"] = outputs
    return {**message, **more}


def response(prompt: int, output: int, cached: int = 0, reasoning: int = 0, **inputs: int) -> dict[str, Any]:
    """Usage of a response."""
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, **inputs},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + output,
    }


def message(prompt: int, output: int, read: int = 0, minutes: int = 0, hour: int = 0, **more: Any) -> dict[str, Any]:
    """Usage of a message."""
    return {
        "input_tokens": prompt,
        "cache_creation_input_tokens": minutes + hour,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": minutes, "ephemeral_1h_input_tokens": hour},
        "output_tokens": output,
        "service_tier": "standard",
        "inference_geo": "global",
        **more,
    }


def gemini(prompt: int, written: int, thoughts: int = 0, tools: int = 0, **more: Any) -> dict[str, Any]:
    """Usage metadata; what is zero is left out."""
    counts = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": written,
        "thoughtsTokenCount": thoughts,
        "toolUsePromptTokenCount": tools,
        "totalTokenCount": prompt + written + thoughts + tools,
    }
    return {**{name: count for name, count in counts.items() if count}, **more}


def by(**tokens: int) -> list[dict[str, Any]]:
    """Tokens by modality."""
    return [{"modality": name, "tokenCount": count} for name, count in tokens.items()]


_READ = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
# Answers of which the package genai-prices reads what is read here.
ANSWERS = tuple(Answer(**each) for each in _READ["same"])
# Answers that the two read otherwise; then their counts, and ours, where they differ.
DIFFERENT = tuple((Answer(**each["answer"]), each["theirs"], each["ours"]) for each in _READ["different"])
