"""The list of models as Codex asks for it (`GET /v1/models?client_version=...`).

Source: `ModelInfo` in codex-rs/protocol/src/openai_models.rs of https://github.com/openai/codex: what has no default
there stands here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.dialects.base import ListedModel

CLIENT_VERSION: Final = "client_version"
"""The parameter by which Codex is known."""
_BUNDLED: Final = re.compile(r"(?:.*/)?(?:gpt-[5-9]|codex)")
"""Models of which Codex has descriptions of its own. An entry would replace these, and with them the instructions that
Codex was made to work with."""
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
