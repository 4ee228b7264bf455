"""Usage as Google and the other providers write it; and what the package reads differently."""

from typing import Final

from tests.gateway.dialects.answers import CANDIDATES, Answer, by, chat, gemini, message, response
from tests.gateway.dialects.answers_of_makers import ANSWERS as ORIGINAL

_OPENAI_INPUT: Final = {"cached_tokens": 0, "audio_tokens": 0}
_OPENAI_OUTPUT: Final = {
    "reasoning_tokens": 0,
    "audio_tokens": 0,
    "accepted_prediction_tokens": 0,
    "rejected_prediction_tokens": 0,
}
_GROQ_TIMES: Final = {"queue_time": 0.037, "prompt_time": 0.0007, "completion_time": 0.46, "total_time": 0.461}

ANSWERS: Final = (
    *ORIGINAL,
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
            {"candidates": [{**CANDIDATES[0], "groundingMetadata": {"webSearchQueries": ["a", "b"]}}]},
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
