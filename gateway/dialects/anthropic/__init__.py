"""Anthropic's API: messages, and counting the tokens of one. What it declares stands here: headers, features that are
still tried out, and what its providers are known for.

dialect   the requests: what they ask for at most, and the fields that the gateway changes; errors and the list of
          models, as Anthropic's clients expect them
content   the messages: input that is not text, what of a request a model reads, and what it wrote
work      tools that run at the provider, other models, and features that are still tried out
usage     the counts of an answer, of all models that worked for it, and of the events of a stream
"""

from typing import Final

from gateway.dialects.declarations import Declarations

VERSION: Final = "anthropic-version"
# The name under which Anthropic's clients show a request's id.
REQUEST_ID: Final = "request-id"
ANTHROPIC: Final = Declarations(
    key_headers=("x-api-key",),
    provider_key=("x-api-key", ""),
    paths=("/v1/",),
    known_by=(VERSION,),
    sent_headers=(VERSION, "anthropic-beta"),
    sent_prefixes=("x-stainless-",),  # what its SDKs say of themselves
    browser_headers=("anthropic-dangerous-direct-browser-access",),
    betas={
        "anthropic-beta": {
            "context-1m": 1_000_000,
            # Agents that run at the provider, for as long as they like.
            "managed-agents": "refuse",
            "agent-memory": "refuse",
            "dreaming": "refuse",
        }
    },
    renamed_prefixes=("anthropic-ratelimit-",),
    request_id_headers=(REQUEST_ID,),
    # It charges a region of its newer models alone, whose rows have a variant for it, and may name it in any answer.
    explained_anomalies=frozenset({("region", "us")}),
    provider_paths={"anthropic": "", "openai": "/v1"},
)
