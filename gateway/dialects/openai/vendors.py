"""Vendors that speak OpenAI's API, each in its own way: what is usual for them, and for their models by name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

MaxOutputField = Literal["max_completion_tokens", "max_tokens", "n_predict"]


@dataclass(frozen=True, slots=True)
class Compatible:
    """What is usual for one kind of provider that speaks OpenAI's API, in its own way.

    `base_url` is empty where each operator has another one. `rerank` is where it serves reranks: at its base URL where
    it is empty. `stream_usage` says whether a stream takes `stream_options`, by which the gateway asks for usage: where
    it is false the provider reports usage without being asked, or refuses what it does not know.
    """

    base_url: str = ""
    max_output_field: MaxOutputField = "max_tokens"
    rerank: str | None = None
    stream_usage: bool = True


# Sources: each vendor's API reference, as of November 2026.
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
# Kinds that are asked for responses over a WebSocket, too, below the same base URL (OpenAI's and xAI's guides,
# "WebSocket mode"). A server of one's own may not speak it: its clients are then told to POST.
WITH_SOCKETS: Final = frozenset({"openai", "xai"})
# Of a server that is none of these.
OPENAI: Final = Compatible()


def usual_dialects(kind: str, base_url: str, base_query: str = "") -> dict[str, str]:
    """Return the base URLs of dialects beside OpenAI's that a provider of a kind serves, by the dialect's name.
    `base_url`, with the query `base_query`, is the provider's own: one that is not the usual one is another server."""
    own = base_url + (f"?{base_query}" if base_query else "")
    if kind in WITH_SOCKETS:
        return {"responses_websocket": own} if base_url else {}
    usual = COMPATIBLE.get(kind, OPENAI)
    if usual.rerank is None or (usual.rerank and base_url != usual.base_url):
        return {}
    return {"rerank": usual.rerank or own}


# OpenAI's and Azure's reasoning models refuse `max_tokens`; all others know it, and many know nothing else.
_NEW_FIELD_HOSTS: Final = re.compile(r"https?://(api\.openai\.com|[^/]+\.(openai|cognitiveservices)\.azure\.com)[:/]")


def default_max_field(base_url: str) -> str:
    """Return where a provider takes the maximum of a chat's output when its entry does not say."""
    return "max_completion_tokens" if _NEW_FIELD_HOSTS.match(base_url + "/") else "max_tokens"


# OpenRouter's suffix of a model's name that puts search results before the prompt.
ONLINE: Final = ":online"
# Results that it brings (https://openrouter.ai/docs/features/web-search).
ONLINE_SEARCHES: Final = 5
# OpenAI's models that search before each answer, whether or not they are asked to, and do not report it
# (https://platform.openai.com/docs/guides/tools-web-search).
_SEARCHES_ITSELF: Final = re.compile(r"\bgpt-.*-search-(?:preview|api)\b")


def online_searches(model: str) -> int:
    """Return the searches that a model's name asks for by itself."""
    return ONLINE_SEARCHES if ONLINE in model.lower() else 0


def searches_itself(model: str) -> bool:
    """Return whether a model searches once before it answers, also where the request does not ask for it."""
    return _SEARCHES_ITSELF.search(model) is not None
