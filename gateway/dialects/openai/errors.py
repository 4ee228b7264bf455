"""OpenAI's format, errors: the envelope that its clients expect, and that whatever belongs to no API is answered in.

Error object: https://platform.openai.com/docs/guides/error-codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from billing.shapes import base

if TYPE_CHECKING:
    from gateway.dialects.base import RefusalFacts

_NO_HEADERS: Final[Mapping[str, str]] = {}


def error_body(refusal: RefusalFacts, request_id: str) -> bytes:
    """Return `{"error": {message, type, param, code, ...}}`."""
    return base.error_body(refusal.code, refusal.message, type_=refusal.type, param=refusal.param, **refusal.extra)


def error_headers(request_id: str) -> Mapping[str, str]:
    """Return no further headers: `x-request-id` is what OpenAI's clients show."""
    return _NO_HEADERS
