"""What OpenAI, Anthropic and Gemini report, as a service's event has it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from billing.client.service import tokens_used
from billing.usage import Usage


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (Usage(input_tokens=9, cached_input_tokens=2, cache_write_tokens=3, output_tokens=4, reasoning_tokens=1),
         (9, 2, 3, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}, (9, 2, 0, 4)),
        ({"prompt_tokens": 9}, (9, 0, 0, 0)),
        ({"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 2}}, (9, 2, 0, 4)),
        ({"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 3},
         (14, 2, 3, 4)),
        ({"promptTokenCount": 9, "candidatesTokenCount": 4, "thoughtsTokenCount": 5, "cachedContentTokenCount": 2,
          "toolUsePromptTokenCount": 1}, (10, 2, 0, 9)),
        (SimpleNamespace(prompt_tokens=9, completion_tokens=4,
                         prompt_tokens_details=SimpleNamespace(cached_tokens=2)), (9, 2, 0, 4)),
        (SimpleNamespace(prompt_token_count=9, candidates_token_count=4), (9, 0, 0, 4)),
    ],
)  # fmt: skip
def test_each_provider_s_report(usage, counts):
    names = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens")
    assert tokens_used(usage) == dict(zip(names, counts, strict=True))


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"tokens": 5}, {"prompt_tokens": -1}, {"prompt_tokens": "5"}, {"prompt_tokens": True},
     Usage(input_tokens=5, audio_input_tokens=5), Usage(images=1)],
)  # fmt: skip
def test_what_can_t_be_reported(usage):
    with pytest.raises(ValueError, match=r"usage|count|event"):
        tokens_used(usage)
