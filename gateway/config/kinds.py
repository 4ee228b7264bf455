"""Kinds of providers that speak OpenAI's API, each in its own way. This file owns what a `kind` fills in.

What an entry of metergate.yaml says itself goes before that. `rerank` is where a kind serves reranks: at its base URL
where it is empty. `stream_usage` says whether a stream takes `stream_options`, by which the gateway asks for usage:
where it is false the provider reports usage without being asked, or refuses what it does not know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

MaxOutputField = Literal["max_completion_tokens", "max_tokens", "n_predict"]


@dataclass(frozen=True, slots=True)
class Compatible:
    """What is usual for one kind. `base_url` is empty where each operator has another one."""

    base_url: str = ""
    max_output_field: MaxOutputField = "max_tokens"
    rerank: str | None = None
    stream_usage: bool = True


COMPATIBLE: Final[Mapping[str, Compatible]] = {
    "azure": Compatible(max_output_field="max_completion_tokens"),
    "cohere": Compatible("https://api.cohere.ai/compatibility/v1", rerank="https://api.cohere.com/v2"),
    "deepseek": Compatible("https://api.deepseek.com/v1"),
    "fireworks": Compatible("https://api.fireworks.ai/inference/v1"),
    "groq": Compatible("https://api.groq.com/openai/v1", "max_completion_tokens"),
    "jina": Compatible("https://api.jina.ai/v1", rerank=""),
    "llamacpp": Compatible(rerank=""),
    "mistral": Compatible("https://api.mistral.ai/v1", stream_usage=False),
    "moonshot": Compatible("https://api.moonshot.ai/v1"),
    "ollama": Compatible("http://127.0.0.1:11434/v1"),
    "openrouter": Compatible("https://openrouter.ai/api/v1"),
    "perplexity": Compatible("https://api.perplexity.ai", stream_usage=False),
    "together": Compatible("https://api.together.xyz/v1", rerank=""),
    "vllm": Compatible(rerank=""),
    "voyage": Compatible("https://api.voyageai.com/v1", rerank=""),
    "xai": Compatible("https://api.x.ai/v1", "max_completion_tokens"),
}
"""Sources: each vendor's API reference, as of November 2026."""
WITH_SOCKETS: Final = frozenset({"https://api.openai.com/v1", "https://api.x.ai/v1"})
"""Base URLs below which responses are served over a WebSocket, too: OpenAI's and xAI's guides, "WebSocket mode"."""
OPENAI: Final = Compatible()
"""Of a server that is none of these."""


def usual_dialects(kind: str, name: str, base_url: str, base_query: str = "") -> dict[str, str]:
    """Return the base URLs of dialects beside OpenAI's that a provider of a kind serves, by the dialect's name.
    `base_url`, with the query `base_query`, is the provider's own: one that is not the usual one is another server."""
    if kind == "local":
        return {"rerank": f"local://{name}/v1"}
    if base_url in WITH_SOCKETS:
        return {"responses_websocket": base_url}
    usual = COMPATIBLE.get(kind, OPENAI)
    if usual.rerank is None or (usual.rerank and base_url != usual.base_url):
        return {}
    return {"rerank": usual.rerank or base_url + (f"?{base_query}" if base_query else "")}
