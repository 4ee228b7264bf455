"""OpenAI's opt-in header, `openai-beta`: its values pass as they come, but for those that open work without a bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from gateway.dialects.exceptions import BadRequest

if TYPE_CHECKING:
    from multidict import MultiMapping

HEADER: Final = "openai-beta"
REFUSED_BETAS: Final[Mapping[str, str]] = {
    "responses_multi_agent": "it has several agents work at once, and nothing bounds how much",
}
"""What changes the bill in a way that can't be metered, by the name before `=`, and why."""


def check_betas(headers: MultiMapping[str]) -> None:
    """Refuse a request that opts in to what can't be metered; all such values are named. Raises `BadRequest`."""
    if HEADER not in headers:
        return
    named = [each.strip() for value in headers.getall(HEADER) for each in value.split(",")]
    refused = {value: why for value in named if (why := REFUSED_BETAS.get(value.partition("=")[0].strip().lower()))}
    if refused:
        reasons = "; ".join(f"'{value}': {why}" for value, why in refused.items())
        raise BadRequest(
            f"The header 'OpenAI-Beta' asks for what can't be metered here. Leave it out ({reasons}).", HEADER
        )
