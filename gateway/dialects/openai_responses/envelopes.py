"""The Responses API, what the gateway answers by itself: OpenAI's errors, with what Codex CLI reads of a quota that
waiting does not help with, and the list of models as Codex asks for it.

Codex CLI 0.169.0 asks once, whatever the type. Of `rate_limit_error` its user reads only "exceeded retry limit, last
status: 429 Too Many Requests", of `insufficient_quota` "Quota exceeded. Check your plan and billing details.". With the
type `usage_limit_reached` they read "You've hit your usage limit.", then the header PROMO, then "or try again at" with
`resets_at` (codex-rs/codex-api/src/api_bridge.rs): so the header is the message, with its address.

Models are listed as `ModelInfo` in codex-rs/protocol/src/openai_models.rs of https://github.com/openai/codex has them
(`GET /v1/models?client_version=...`): what has no default there stands here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from billing.schemas import base
from gateway.dialects.openai import errors

if TYPE_CHECKING:
    from gateway.dialects.base import ListedModel, RefusalFacts


SPENT: Final = "usage_limit_reached"
PROMO: Final = "x-codex-promo-message"


def error_body(refusal: RefusalFacts, request_id: str) -> bytes:
    """Return OpenAI's envelope; where a quota is spent, with `resets_at` in Unix seconds or null."""
    if refusal.final is None:
        return errors.error_body(refusal, request_id)
    more = {**refusal.extra, "resets_at": refusal.final.resets_at_s}
    return base.error_body(refusal.code, refusal.message, type_=SPENT, param=refusal.param, **more)


def error_headers(request_id: str, refusal: RefusalFacts | None = None) -> Mapping[str, str]:
    """Return what Codex shows where a quota is spent."""
    if refusal is None or refusal.final is None:
        return errors.error_headers(request_id)
    said = refusal.message.rstrip(".").encode("ascii", "replace").decode()
    return {PROMO: "".join(sign if sign.isprintable() else " " for sign in said)}


# The parameter by which Codex is known.
CLIENT_VERSION: Final = "client_version"
# Models of which Codex has descriptions of its own. An entry would replace these, and with them the instructions that
# Codex was made to work with.
_BUNDLED: Final = re.compile(r"(?:.*/)?(?:gpt-[5-9]|codex)")
_INSTRUCTIONS: Final = (
    "You are a coding agent that works in a terminal, in the user's folder. Read before you change something, keep "
    "changes small, run the project's tests, and say in the end what you did and what is left."
)
_TOOL_OUTPUT_BYTES: Final = 10_000


class CodexModels:
    """How Codex wants models listed; a `ModelList`."""

    paths: Final = ()

    def has(self, model: ListedModel, *, writes: bool) -> bool:
        """Return whether it writes, and Codex does not know it already."""
        return writes and _BUNDLED.match(model.id) is None

    def listed(self, models: Sequence[ListedModel], query: Mapping[str, str]) -> object:
        """Return all of them."""
        return {"models": [self.one(model) for model in models]}

    def one(self, model: ListedModel) -> object:
        """Return one model."""
        return {
            "slug": model.id,
            "display_name": model.id,
            "description": None,
            "supported_reasoning_levels": [],
            "shell_type": "shell_command",
            "visibility": "list",
            "supported_in_api": True,
            "priority": 100,
            "availability_nux": None,
            "upgrade": None,
            "base_instructions": _INSTRUCTIONS,
            "supports_reasoning_summaries": False,
            "support_verbosity": False,
            "default_verbosity": None,
            "apply_patch_tool_type": None,
            "truncation_policy": {"mode": "bytes", "limit": _TOOL_OUTPUT_BYTES},
            "supports_parallel_tool_calls": False,
            "context_window": model.context_window,
            "experimental_supported_tools": [],
        }
