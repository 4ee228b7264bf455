"""OpenAI's format, errors: the envelope that its clients expect, and that whatever belongs to no API is answered in.

Error object: https://platform.openai.com/docs/guides/error-codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from billing.schemas import base
from gateway.dialects.declarations import NO_HEADERS

if TYPE_CHECKING:
    from gateway.dialects.base import RefusalFacts

# LiteLLM maps a 402 or 403 of any other type to its general APIError, which what is built on it repeats (aider 0.86.2:
# nine times within 71 s), and one of this type to BadRequestError with the same status, which they take for final; seen
# with LiteLLM 1.81.10 and 1.106.2. No other client looks at these types.
_TYPES: Final[Mapping[int, str]] = dict.fromkeys((402, 403), "invalid_request_error")
# OpenAI's type of a quota that waiting does not help with.
SPENT: Final = "insufficient_quota"
# At the status 429 no type stops OpenCode 1.18.33, Qwen Code 0.15.10, Continue 1.5.47, pi 0.73.1 or LiteLLM: they go by
# the status alone, and neither `type` nor `code` changed how often they asked. AI SDK 4 obeys it in a stream's error.


def error_body(refusal: RefusalFacts, request_id: str) -> bytes:
    """Return `{"error": {message, type, param, code, ...}}`; `code` is the gateway's own, `type` OpenAI's where clients
    act on it."""
    type_ = _TYPES.get(refusal.status, refusal.type) if refusal.final is None else SPENT
    return base.error_body(refusal.code, refusal.message, type_=type_, param=refusal.param, **refusal.extra)


def error_headers(request_id: str, refusal: RefusalFacts | None = None) -> Mapping[str, str]:
    """Return no further headers: `x-request-id` is what OpenAI's clients show."""
    return NO_HEADERS
