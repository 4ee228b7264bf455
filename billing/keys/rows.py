"""What a key may say: the row of a key, its rules and its bounds. Pure.

ApiKeyError
+-- KeyNotFound   no key has this id
+-- KeyRefused    a key can't be so; `field` says what of it
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypedDict

from billing.errors import MetergateError
from billing.keys.secrets import DEFAULT_SCOPES
from billing.quotas import Metric, Quota, Window, check_quotas

MAX_SCOPES: Final = 32
MAX_MODELS: Final = 100
MAX_MODEL: Final = 200
MAX_TAGS: Final = 32
MAX_TAG_NAME: Final = 64
MAX_TAG_VALUE: Final = 256

_SCOPE: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}:[a-z][a-z0-9_-]{0,31}", re.ASCII)


class ApiKeyError(MetergateError):
    """What was asked of a key can't be done. The message is fit for a reader."""


class KeyNotFound(ApiKeyError):
    """No key has this id."""


class KeyRefused(ApiKeyError):
    """A key can't be so: `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A row of api_keys without its digest. `models` None allows every model; names may end in `*`."""

    id: str
    account_id: str
    user_id: str | None
    name: str
    prefix: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] | None
    quotas: tuple[Quota, ...]
    max_parallel_requests: int | None
    tags: Mapping[str, str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    version: int

    def __post_init__(self) -> None:
        check_scopes(self.scopes)
        check_models(self.models)
        check_tags(self.tags)
        check_parallel(self.max_parallel_requests)
        check_quotas(self.quotas)


class KeyChanges(TypedDict, total=False):
    """What a change of a key may say; a name that is absent leaves as it is, None clears."""

    name: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] | None
    quotas: tuple[Quota, ...]
    max_parallel_requests: int | None
    expires_at: datetime | None
    tags: Mapping[str, str]


def parse_scopes(said: str | Iterable[str] | None) -> tuple[str, ...]:
    """Scopes from a list or a space-separated string, each once; None means the default. Raises `KeyRefused`."""
    if said is None:
        return DEFAULT_SCOPES
    names = said.split() if isinstance(said, str) else said
    return check_scopes(tuple(dict.fromkeys(names)))


def check_scopes(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """The scopes themselves; an operator may add any `word:word`. Raises `KeyRefused`."""
    if not 0 < len(scopes) <= MAX_SCOPES:
        raise KeyRefused("scopes", f"A key has 1 to {MAX_SCOPES} scopes.")
    for scope in scopes:
        if _SCOPE.fullmatch(scope) is None:
            raise KeyRefused("scopes", "A scope is word:word in lower case, such as llm:proxy.")
    return scopes


def check_models(models: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The models themselves: exact names, or prefixes with one `*` at the end. Raises `KeyRefused`."""
    if models is None:
        return None
    if not 0 < len(models) <= MAX_MODELS:
        raise KeyRefused("models", f"models has 1 to {MAX_MODELS} names; null allows every model.")
    for model in models:
        if not 0 < len(model) <= MAX_MODEL or "*" in model[:-1]:
            raise KeyRefused(
                "models", f"A model is a name of at most {MAX_MODEL} characters, or a prefix with one * at its end."
            )
    return models


def check_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    """The tags themselves, bounded in number and length. Raises `KeyRefused`."""
    if len(tags) > MAX_TAGS:
        raise KeyRefused("tags", f"At most {MAX_TAGS} tags.")
    for name, value in tags.items():
        if not 0 < len(name) <= MAX_TAG_NAME or len(value) > MAX_TAG_VALUE:
            raise KeyRefused(
                "tags", f"A tag's name has 1 to {MAX_TAG_NAME} characters, its value at most {MAX_TAG_VALUE}."
            )
    return tags


def check_parallel(bound: int | None) -> int | None:
    """The bound of requests at once itself; None is no bound. Raises `KeyRefused`."""
    if bound is not None and not 0 < bound < 2**31:
        raise KeyRefused("max_parallel_requests", "max_parallel_requests must be above zero and below 2^31.")
    return bound


def total_tokens_quota(limit: int) -> tuple[Quota, ...]:
    """The shorthand `quota`: so many tokens in total; 0 is unlimited. Raises `quotas.QuotaError`."""
    return (Quota(Window.total, Metric.tokens, limit),) if limit else ()
