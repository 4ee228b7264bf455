"""The Responses API, errors: OpenAI's envelope, with what Codex CLI reads of a quota that waiting does not help with.

Codex CLI 0.169.0 asks once, whatever the type. Of `rate_limit_error` its user reads only "exceeded retry limit, last
status: 429 Too Many Requests", of `insufficient_quota` "Quota exceeded. Check your plan and billing details.". With the
type `usage_limit_reached` they read "You've hit your usage limit.", then the header PROMO, then "or try again at" with
`resets_at` (codex-rs/codex-api/src/api_bridge.rs): so the header is the message, with its address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing.schemas import base
from gateway.dialects.openai import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.dialects.base import RefusalFacts

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
