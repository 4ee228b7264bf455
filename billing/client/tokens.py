"""What a model's answer says that it used, as a service reports it. Pure.

OpenAI's chat (https://platform.openai.com/docs/api-reference/chat/object) counts `prompt_tokens`, cached ones among
them; its Responses API `input_tokens`, in the same way; Anthropic (https://docs.anthropic.com/en/api/messages) counts
cached and written input beside `input_tokens`; Gemini (https://ai.google.dev/api/generate-content#UsageMetadata) counts
thoughts beside the candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from billing.usage import Usage

if TYPE_CHECKING:
    from billing.client.service import Measured

TokensUsed = Usage | Mapping[str, Any] | object
# What of a `Usage` a service can report. Reasoning is a part of output, and is charged as such.
CARRIED: Final = frozenset(
    ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "requests")
)


def tokens_used(usage: TokensUsed) -> Measured:
    """Return the counts of an answer. Raises `ValueError` for what is no usage, or has counts that a service's event
    can't carry and that would be charged too low."""
    if isinstance(usage, Usage):
        return _of_usage(usage)
    if _count(usage, "promptTokenCount", "prompt_token_count") is not None:
        return _of_gemini(usage)
    names = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
    input_tokens, output_tokens = (_count(usage, *each) for each in names)
    if input_tokens is None and output_tokens is None:
        raise ValueError("this is no usage of a model: it has neither input_tokens nor prompt_tokens")
    beside, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    if beside is not None or written is not None:
        return _counts((input_tokens or 0) + (beside or 0) + (written or 0), beside, written, output_tokens)
    details = _get(usage, "prompt_tokens_details") or _get(usage, "input_tokens_details")
    cached = None if details is None else _count(details, "cached_tokens")
    return _counts(input_tokens, cached, None, output_tokens)


def _of_usage(usage: Usage) -> Measured:
    other = [name for name in Usage.__struct_fields__ if name not in CARRIED and getattr(usage, name)]
    if other:
        raise ValueError(f"a service's event has no {', '.join(other)}: name amount_usd, or a meter")
    return _counts(usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens, usage.output_tokens)


def _of_gemini(usage: object) -> Measured:
    output = (_count(usage, "candidatesTokenCount", "candidates_token_count") or 0) + (
        _count(usage, "thoughtsTokenCount", "thoughts_token_count") or 0
    )
    tools = _count(usage, "toolUsePromptTokenCount", "tool_use_prompt_token_count") or 0
    prompt = _count(usage, "promptTokenCount", "prompt_token_count") or 0
    cached = _count(usage, "cachedContentTokenCount", "cached_content_token_count")
    return _counts(prompt + tools, cached, None, output)


def _counts(input_tokens: int | None, cached: int | None, written: int | None, output: int | None) -> Measured:
    return {
        "input_tokens": input_tokens or 0,
        "cached_input_tokens": cached or 0,
        "cache_write_tokens": written or 0,
        "output_tokens": output or 0,
    }


def _get(usage: object, name: str) -> Any:
    return usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None)


def _count(usage: object, *names: str) -> int | None:
    """Return the first of these counts that is there. Raises `ValueError` for one that is no count."""
    for name in names:
        value = _get(usage, name)
        if value is None:
            continue
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} is no count of tokens")
        return value
    return None
