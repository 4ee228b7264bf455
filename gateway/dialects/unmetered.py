"""Paths of providers that are refused by name, because what they do could not be metered. This file owns the list.

Any other path that is no endpoint is refused too, as one that does not exist. These are known, and their clients are
told why: what they give leads past the gateway, is shared by all who use the provider's key, or costs by the hour.
"""

import re
from typing import Final

_PAST_US: Final = (
    "what it gives opens sessions at the provider itself, which would pass this gateway by and could not be metered. "
    "Send requests through the gateway, with its own key"
)
_SHARED: Final = (
    "stored chat completions belong to the provider's key, which all accounts here share, so that they are not given "
    "out. Keep answers yourself"
)
_UNBOUNDED: Final = "how much a run of it costs is bounded by nothing. Use chat completions, responses or messages"
_BY_TIME: Final = "it costs by the hour or by what is kept, which is not metered here"
_OPERATORS: Final = "it manages the operator's own account at the provider"

_VERSION: Final = r"(?:/azure)?(?:/openai)?/v[0-9][0-9a-z]*"
_REASONS: Final = tuple(
    (re.compile(f"{_VERSION}/(?:{paths})", re.ASCII), reason)
    for paths, reason in (
        (r"realtime/(?:client_secrets|sessions|transcription_sessions|calls|translations)(?:/.*)?", _PAST_US),
        (r"(?:auth_tokens|live/tokens|chatkit)(?:[/:].*)?", _PAST_US),
        (r"chat/completions(?:/[^/]+(?:/messages)?)?", _SHARED),
        (r"(?:assistants|threads|agents|sessions|deployments)(?:/.*)?", _UNBOUNDED),
        (r"(?:vector_stores|containers|fine_tuning|evals|uploads|videos|skills)(?:/.*)?", _BY_TIME),
        (r"(?:organization|organizations|projects)(?:/.*)?", _OPERATORS),
    )
)


def why_unmetered(path: str) -> str | None:
    """Return why a path is refused, None of one that is not known. A query string is passed over."""
    path = path.partition("?")[0].rstrip("/")
    return next((reason for pattern, reason in _REASONS if pattern.fullmatch(path)), None)
