"""Usage as OpenAI, Azure and Anthropic write it."""

from typing import Final

from tests.gateway.dialects.answers import Answer, chat, message, response

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
)
