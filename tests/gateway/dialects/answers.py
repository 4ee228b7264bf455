"""Usage as providers write it, API by API: the fields of their references, with counts that tell them apart. An address
is that of a reference which has the fields; the counts are made up."""

import json
from typing import Any, Final, NamedTuple


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
                "candidates": _SAID,
                "modelVersion": "gemini-3-pro-preview",
                "usageMetadata": self.usage,
                **self.more,
            }
        return {"model": "some-model", "usage": self.usage, **_CONTENT.get(self.api, {}), **self.more}

    @property
    def text(self) -> bytes:
        return json.dumps(self.body).encode()


_SAID: Final = [{"content": {"role": "model", "parts": [{"text": "Hi."}]}, "finishReason": "STOP"}]
_CONTENT: Final[dict[str, dict[str, Any]]] = {
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
    said: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if inputs is not None:
        said["prompt_tokens_details"] = inputs
    if outputs is not None:
        said["completion_tokens_details"] = outputs
    return {**said, **more}


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
    said = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": written,
        "thoughtsTokenCount": thoughts,
        "toolUsePromptTokenCount": tools,
        "totalTokenCount": prompt + written + thoughts + tools,
    }
    return {**{name: count for name, count in said.items() if count}, **more}


def by(**tokens: int) -> list[dict[str, Any]]:
    """Tokens by modality."""
    return [{"modality": name, "tokenCount": count} for name, count in tokens.items()]


_OPENAI_INPUT: Final = {"cached_tokens": 0, "audio_tokens": 0}
_OPENAI_OUTPUT: Final = {
    "reasoning_tokens": 0,
    "audio_tokens": 0,
    "accepted_prediction_tokens": 0,
    "rejected_prediction_tokens": 0,
}
_GROQ_TIMES: Final = {"queue_time": 0.037, "prompt_time": 0.0007, "completion_time": 0.46, "total_time": 0.461}

ANSWERS: Final = (
    # https://platform.openai.com/docs/api-reference/chat/object
    Answer("plain", "openai", "chat", "chat", chat(19, 10, _OPENAI_INPUT, _OPENAI_OUTPUT)),
    Answer(
        "cached", "openai", "chat", "chat", chat(2006, 300, {**_OPENAI_INPUT, "cached_tokens": 1920}, _OPENAI_OUTPUT)
    ),
    Answer(
        "reasoning",
        "openai",
        "chat",
        "chat",
        chat(75, 1186, _OPENAI_INPUT, {**_OPENAI_OUTPUT, "reasoning_tokens": 1024}),
    ),
    Answer(
        "written",
        "openai",
        "chat",
        "chat",
        chat(5000, 20, {**_OPENAI_INPUT, "cached_tokens": 1024, "cache_write_tokens": 2048}, _OPENAI_OUTPUT),
    ),
    Answer(
        "spoken",
        "openai",
        "chat",
        "chat",
        chat(58, 216, {"cached_tokens": 0, "audio_tokens": 42}, {**_OPENAI_OUTPUT, "audio_tokens": 168}),
    ),
    Answer(
        "heard", "openai", "chat", "chat", chat(1300, 44, {"cached_tokens": 1024, "audio_tokens": 200}, _OPENAI_OUTPUT)
    ),
    Answer(
        "predicted",
        "openai",
        "chat",
        "chat",
        chat(
            290,
            120,
            _OPENAI_INPUT,
            {**_OPENAI_OUTPUT, "accepted_prediction_tokens": 60, "rejected_prediction_tokens": 22},
        ),
    ),
    Answer("without details", "openai", "chat", "chat", chat(8, 9)),
    Answer("null details", "openai", "chat", "chat", chat(8, 9, None, None, prompt_tokens_details=None)),
    Answer(
        "flex",
        "openai",
        "chat",
        "chat",
        chat(400_000, 999, {**_OPENAI_INPUT, "cached_tokens": 272_000}),
        {"service_tier": "flex"},
    ),
    Answer(
        "all was thought",
        "openai",
        "chat",
        "chat",
        chat(10, 64, _OPENAI_INPUT, {**_OPENAI_OUTPUT, "reasoning_tokens": 64}),
    ),
    Answer("embeddings", "openai", "embeddings", "embeddings", {"prompt_tokens": 8, "total_tokens": 8}),
    # https://platform.openai.com/docs/api-reference/responses/object
    Answer("plain", "openai", "responses", "responses", response(36, 87)),
    Answer("cached", "openai", "responses", "responses", response(4096, 87, cached=3968)),
    Answer("written", "openai", "responses", "responses", response(4096, 87, cached=1024, cache_write_tokens=2000)),
    Answer("reasoning", "openai", "responses", "responses", response(81, 1035, reasoning=832)),
    Answer(
        "all of it",
        "openai",
        "responses",
        "responses",
        response(300_000, 5000, 250_000, 4000, cache_write_tokens=40_000),
    ),
    Answer("incomplete", "openai", "responses", "responses", response(12, 16, reasoning=16), {"status": "incomplete"}),
    Answer(
        "compacted",
        "openai",
        "responses",
        "responses",
        response(139, 438, reasoning=64),
        {"object": "response.compaction"},
    ),
    # https://learn.microsoft.com/azure/ai-foundry/openai/reference-preview
    Answer(
        "plain", "azure", "chat", "chat", chat(33, 557, _OPENAI_INPUT, _OPENAI_OUTPUT), {"prompt_filter_results": []}
    ),
    Answer(
        "cached",
        "azure",
        "chat",
        "chat",
        chat(1566, 1518, {"cached_tokens": 1408, "audio_tokens": 0}, {"reasoning_tokens": 576, "audio_tokens": 0}),
    ),
    Answer("response", "azure", "responses", "responses", response(1566, 700, 1408, 640)),
    Answer("embeddings", "azure", "embeddings", "embeddings", {"prompt_tokens": 4, "total_tokens": 4}),
    Answer("claude", "azure", "anthropic", "messages", message(17, 32, read=800, minutes=120)),
    # https://docs.anthropic.com/en/api/messages
    Answer("plain", "anthropic", "default", "messages", message(2095, 503)),
    Answer("old shape", "anthropic", "default", "messages", {"input_tokens": 12, "output_tokens": 6}),
    Answer("read", "anthropic", "default", "messages", message(50, 393, read=100_000)),
    Answer("written", "anthropic", "default", "messages", message(21, 393, minutes=188_086)),
    Answer("written for an hour", "anthropic", "default", "messages", message(2048, 503, read=1800, hour=248)),
    Answer(
        "written for both", "anthropic", "default", "messages", message(2048, 503, read=1800, minutes=148, hour=100)
    ),
    Answer(
        "searched",
        "anthropic",
        "default",
        "messages",
        message(6039, 931, server_tool_use={"web_search_requests": 3, "web_fetch_requests": 1}),
    ),
    Answer(
        "thought",
        "anthropic",
        "default",
        "messages",
        message(310, 2400, output_tokens_details={"thinking_tokens": 2100}),
    ),
    Answer("warmed", "anthropic", "default", "messages", message(9, 0, hour=50_000)),
    Answer(
        "null caches",
        "anthropic",
        "default",
        "messages",
        {"input_tokens": 25, "output_tokens": 15, "cache_read_input_tokens": None, "cache_creation_input_tokens": None},
    ),
    Answer(
        "without a split",
        "anthropic",
        "default",
        "messages",
        {"input_tokens": 25, "output_tokens": 15, "cache_read_input_tokens": 70, "cache_creation_input_tokens": 300},
    ),
    # https://ai.google.dev/api/generate-content#UsageMetadata
    Answer(
        "plain",
        "google",
        "default",
        "gemini",
        gemini(8, 12, promptTokensDetails=by(TEXT=8), candidatesTokensDetails=by(TEXT=12)),
    ),
    Answer("thought", "google", "default", "gemini", gemini(14, 210, thoughts=870)),
    Answer(
        "cached",
        "google",
        "default",
        "gemini",
        gemini(
            4500, 60, cachedContentTokenCount=4096, promptTokensDetails=by(TEXT=4500), cacheTokensDetails=by(TEXT=4096)
        ),
    ),
    Answer("looked", "google", "default", "gemini", gemini(263, 40, promptTokensDetails=by(TEXT=5, IMAGE=258))),
    Answer("heard", "google", "default", "gemini", gemini(1925, 80, promptTokensDetails=by(TEXT=5, AUDIO=1920))),
    Answer(
        "watched",
        "google",
        "default",
        "gemini",
        gemini(30_005, 400, promptTokensDetails=by(TEXT=5, VIDEO=26_300, AUDIO=3700)),
    ),
    Answer(
        "heard again",
        "google",
        "default",
        "gemini",
        gemini(
            5000,
            9,
            cachedContentTokenCount=3000,
            promptTokensDetails=by(TEXT=1000, AUDIO=4000),
            cacheTokensDetails=by(TEXT=500, AUDIO=2500),
        ),
    ),
    Answer("painted", "google", "default", "gemini", gemini(12, 1290, candidatesTokensDetails=by(IMAGE=1290))),
    Answer(
        "painted and thought",
        "google",
        "default",
        "gemini",
        gemini(12, 1302, thoughts=230, candidatesTokensDetails=by(TEXT=12, IMAGE=1290)),
    ),
    Answer("spoke", "google", "default", "gemini", gemini(21, 512, candidatesTokensDetails=by(AUDIO=512))),
    Answer(
        "used tools",
        "google",
        "default",
        "gemini",
        gemini(27, 330, thoughts=140, tools=2300, toolUsePromptTokensDetails=by(TEXT=2300)),
    ),
    Answer(
        "wrote nothing",
        "google",
        "default",
        "gemini",
        gemini(9, 0, thoughts=60),
        {"candidates": [{"finishReason": "MAX_TOKENS"}]},
    ),
    Answer("tier", "google", "default", "gemini", gemini(300_000, 700, thoughts=50, trafficType="ON_DEMAND_PRIORITY")),
    Answer("chat", "google", "chat", "chat", chat(7, 30)),
    Answer("claude", "google", "anthropic", "messages", message(17, 32, read=800, minutes=120, hour=30)),
    # https://api-docs.deepseek.com/api/create-chat-completion
    Answer(
        "plain",
        "deepseek",
        "chat",
        "chat",
        chat(16, 10, {"cached_tokens": 0}, None, prompt_cache_hit_tokens=0, prompt_cache_miss_tokens=16),
    ),
    Answer(
        "hit",
        "deepseek",
        "chat",
        "chat",
        chat(1000, 10, {"cached_tokens": 896}, None, prompt_cache_hit_tokens=896, prompt_cache_miss_tokens=104),
    ),
    Answer(
        "thought",
        "deepseek",
        "chat",
        "chat",
        chat(
            14,
            900,
            {"cached_tokens": 0},
            {"reasoning_tokens": 750},
            prompt_cache_hit_tokens=0,
            prompt_cache_miss_tokens=14,
        ),
    ),
    # https://docs.mistral.ai/api/
    Answer("plain", "mistral", "default", "chat", chat(16, 34)),
    Answer(
        "cached", "mistral", "default", "chat", chat(4016, 34, {"cached_tokens": 3968}, None, num_cached_tokens=3968)
    ),
    Answer("thought", "mistral", "default", "chat", chat(16, 340, None, {"reasoning_tokens": 300})),
    # https://console.groq.com/docs/api-reference
    Answer("plain", "groq", "default", "chat", chat(18, 556, None, None, **_GROQ_TIMES)),
    Answer("cached", "groq", "default", "chat", chat(4641, 1817, {"cached_tokens": 4608}, None, **_GROQ_TIMES)),
    Answer("thought", "groq", "default", "chat", chat(80, 400, None, {"reasoning_tokens": 333}, **_GROQ_TIMES)),
    # https://docs.x.ai/docs/api-reference
    Answer(
        "plain",
        "x-ai",
        "chat",
        "chat",
        chat(
            32,
            9,
            {"text_tokens": 32, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 6},
            _OPENAI_OUTPUT,
            num_sources_used=0,
        ),
    ),
    Answer(
        "thought",
        "x-ai",
        "chat",
        "chat",
        chat(32, 9, {"text_tokens": 32, "cached_tokens": 6}, {"reasoning_tokens": 310}, total_tokens=351),
    ),
    Answer("response", "x-ai", "responses", "responses", response(500, 700, 128, 600)),
    # https://openrouter.ai/docs/use-cases/usage-accounting
    Answer(
        "plain",
        "openrouter",
        "chat",
        "chat",
        chat(
            194,
            2,
            {"cached_tokens": 0, "cache_write_tokens": 100, "audio_tokens": 0},
            {"reasoning_tokens": 0},
            cost=0.95,
            cost_details={"upstream_inference_cost": 19},
        ),
    ),
    Answer(
        "cached",
        "openrouter",
        "chat",
        "chat",
        chat(10_339, 60, {"cached_tokens": 10_318}, {"reasoning_tokens": 20}, cost=0.0012, is_byok=False),
    ),
    Answer("response", "openrouter", "default", "responses", response(12, 45, 8, 30)),
    # https://platform.moonshot.ai/docs/api/chat
    Answer("cached", "moonshotai", "chat", "chat", chat(200, 50, {"cached_tokens": 128}, None, cached_tokens=128)),
    # https://docs.fireworks.ai/api-reference/post-chatcompletions
    Answer("cached", "fireworks", "chat", "chat", chat(200, 50, {"cached_tokens": 128})),
    # https://docs.together.ai/reference/chat-completions
    Answer("plain", "huggingface_together", "chat", "chat", chat(20, 50, {"cached_tokens": 0})),
    # https://docs.cohere.com/docs/compatibility-api, whose usage is OpenAI's
    Answer("plain", "openai", "chat", "chat", chat(71, 418), {"model": "command-a-03-2025"}),
    # https://docs.perplexity.ai/api-reference/chat-completions-post
    Answer(
        "searched",
        "perplexity",
        "default",
        "chat",
        chat(14, 30, None, None, search_context_size="low", num_search_queries=2),
    ),
)
"""Answers of which the package reads what is read here."""
DIFFERENT: Final = (
    # By the prices of the package itself cached text, images and video cost the same, and sound has a price of its own:
    # cached images are counted as cached_input. They have a count of cached images.
    (
        Answer(
            "looked again",
            "google",
            "default",
            "gemini",
            gemini(
                1000,
                9,
                cachedContentTokenCount=600,
                promptTokensDetails=by(TEXT=400, IMAGE=600),
                cacheTokensDetails=by(TEXT=342, IMAGE=258),
            ),
        ),
        {"input_image_tokens": 600, "cache_image_read_tokens": 258},
        {"input_image_tokens": 342},
    ),
    # Google names no price for documents; others found them billed as text
    # (https://github.com/BerriAI/litellm/pull/24410). They count documents as images, whose price is the same in all
    # rows.
    (
        Answer(
            "document", "google", "default", "gemini", gemini(523, 40, promptTokensDetails=by(TEXT=7, DOCUMENT=516))
        ),
        {"input_image_tokens": 516},
        {},
    ),
    # https://ai.google.dev/gemini-api/docs/pricing: "Grounding with Google Search" is billed by the search query from
    # Gemini 3 on. That what it brings is no input besides is how other meters have it; no page of Google's was found
    # that says so. They add it, and leave the search out.
    (
        Answer(
            "grounded",
            "google",
            "default",
            "gemini",
            gemini(20, 90, tools=4000),
            {"candidates": [{**_SAID[0], "groundingMetadata": {"webSearchQueries": ["a", "b"]}}]},
        ),
        {"input_tokens": 4020},
        {"input_tokens": 20, "web_searches": 2},
    ),
    # Measured by others at Google's OpenAI endpoint, described nowhere: thinking is in total_tokens alone. They leave
    # it out.
    (
        Answer("chat that thought", "google", "chat", "chat", chat(7, 30, total_tokens=137)),
        {"output_tokens": 30},
        {"output_tokens": 130},
    ),
    # https://docs.x.ai/docs/guides/live-search: 25 USD per 1,000 sources used, which num_sources_used counts. (It was
    # withdrawn in 2026; what searches the Responses API does is another field.) They leave it out.
    (
        Answer("searched", "x-ai", "chat", "chat", chat(32, 9, {"cached_tokens": 6}, num_sources_used=4)),
        {},
        {"web_searches": 4},
    ),
    # https://developers.openai.com/api/docs/pricing: web search is billed by the call. They leave it out.
    (
        Answer(
            "searched",
            "openai",
            "responses",
            "responses",
            response(300, 40),
            {"output": [{"type": "web_search_call", "status": "completed", "action": {"type": "search"}}]},
        ),
        {},
        {"web_searches": 1},
    ),
    # https://api-docs.deepseek.com/guides/kv_cache/: prompt_cache_hit_tokens are the hits; they read another name.
    (
        Answer("hit, by its old name", "deepseek", "chat", "chat", chat(1000, 10, prompt_cache_hit_tokens=896)),
        {},
        {"cache_read_tokens": 896},
    ),
    # Moonshot's own answers have cached_tokens at the top alone, and no details
    # (https://github.com/promptfoo/promptfoo/pull/10132, tried against its API).
    (
        Answer("cached, at the top", "moonshotai", "chat", "chat", chat(200, 50, cached_tokens=128)),
        {},
        {"cache_read_tokens": 128},
    ),
    # https://docs.perplexity.ai/getting-started/pricing: what Deep Research thought and cited has prices of its own (3
    # and 2 USD, output is 8), which a reported cost has in it. Whether completion_tokens has them no page says: the
    # total here has not. They add both to the output.
    (
        Answer("deep", "perplexity", "default", "chat", chat(14, 900, reasoning_tokens=700, citation_tokens=50)),
        {"output_tokens": 1650, "output_reasoning_tokens": 700},
        {"output_tokens": 900},
    ),
)
"""Answers that the two read otherwise, with what decides, a page where there is one; then their counts, and ours, where
they differ."""
