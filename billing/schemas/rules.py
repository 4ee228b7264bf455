"""What a rule of a key is: how it is read, checked, shown, stored, and given to a command. The rules themselves are in
`billing.schemas.keys`. Pure.

ApiKeyError
+-- KeyConflict     it can't be done to this key as things stand: it was revoked, there are too many
+-- KeyNotFound     no key has this id
+-- KeyRefused      a key can't be so; `field` says what of it
+-- ScopeWithheld   who makes or changes a key may not give it this scope
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from billing.errors import MetergateError
from billing.plans import MAX_TOOL_CALLS
from billing.times import TimeError, parse_rfc3339

DEFAULT_SCOPES: Final = ("llm:proxy", "billing:read")
MAX_SCOPES: Final = 32
MAX_MODELS: Final = 100
MAX_MODEL: Final = 200
MAX_TAGS: Final = 32
MAX_TAG_NAME: Final = 64
MAX_TAG_VALUE: Final = 256

SCOPE: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}:[a-z][a-z0-9_-]{0,31}", re.ASCII)
_SCOPE_PATTERN: Final = SCOPE.pattern
_SCOPES_EXAMPLE: Final = " ".join(DEFAULT_SCOPES)
ScopesText = Annotated[
    str,
    Meta(
        description="`word:word`, separated by spaces",
        examples=[_SCOPES_EXAMPLE],
        extra_json_schema={"pattern": f"^{_SCOPE_PATTERN}( {_SCOPE_PATTERN}){{0,{MAX_SCOPES - 1}}}$"},
    ),
]
ScopesList = Annotated[
    list[Annotated[str, Meta(examples=["llm:proxy"], extra_json_schema={"pattern": f"^{_SCOPE_PATTERN}$"})]],
    Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_SCOPES}),
]
ModelsBody = Annotated[
    list[
        Annotated[
            str, Meta(examples=["gpt-*"], extra_json_schema={"pattern": f"^([^*]{{1,{MAX_MODEL - 1}}}[*]?|[*])$"})
        ]
    ],
    Meta(
        description="names or `prefix*`; null: every model", extra_json_schema={"minItems": 1, "maxItems": MAX_MODELS}
    ),
]
ParallelBody = Annotated[
    int, Meta(description="null: no bound", extra_json_schema={"minimum": 1, "maximum": 2**31 - 1})
]
ToolCallsBody = Annotated[
    int, Meta(description="null: as the plan says", extra_json_schema={"minimum": 1, "maximum": MAX_TOOL_CALLS})
]
ExpiryBody = Annotated[
    str,
    Meta(
        description="RFC 3339 or a day, of a new key in the future; null: never",
        examples=["2037-01-31T12:00:00Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
# What is checked by the rules themselves, whose messages say more: the schemas say the same to programs.
TagsBody = Annotated[
    dict[str, Annotated[str, Meta(extra_json_schema={"maxLength": MAX_TAG_VALUE})]],
    Meta(
        extra_json_schema={
            "maxProperties": MAX_TAGS,
            "propertyNames": {"minLength": 1, "maxLength": MAX_TAG_NAME},
        }
    ),
]


class ApiKeyError(MetergateError):
    """What was asked of a key can't be done. The message is fit for a reader."""


class KeyNotFound(ApiKeyError):
    """No key has this id."""

    kind = "not_found"


class KeyRefused(ApiKeyError):
    """A key can't be so: `field` names what is wrong."""

    kind = "invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class KeyConflict(ApiKeyError):
    """It can't be done to this key as things stand."""

    kind = "conflict"


class ScopeWithheld(ApiKeyError):
    """Who makes or changes a key may not give it this scope."""

    kind = "forbidden"

    def __init__(self, scope: str) -> None:
        super().__init__(
            f"A key with the scope {scope} is made, and given another secret, by who has it, for a member whose role "
            f'has it. Where yours has: `metergate auth token --scope "{scope}"`; else ask an admin of the organization.'
        )
        self.required_scope = scope


def _as_it_is(value: Any) -> Any:
    return value


def _accept(value: Any) -> None:
    """Accept every value of the right type."""


@dataclass(frozen=True, slots=True)
class Option:
    """A rule's option of `metergate operator key create|update`: `kind` says how its text is read, `none` what is shown
    of a key without the rule, `called` what the rule is called in `--clear` and in tables."""

    flag: str
    kind: Literal["texts", "quotas", "pairs", "number", "time"]
    metavar: str
    help: str
    called: str
    none: str = "none"


@dataclass(frozen=True, slots=True)
class Rule:
    """How one rule is read from JSON (null is what clears it), checked, shown as JSON and written to its column, which
    has the field's name."""

    option: Option
    parse: Callable[[Any], Any] = _as_it_is
    check: Callable[[Any], object] = _accept
    show: Callable[[Any], Any] = _as_it_is
    load: Callable[[Any], Any] = _as_it_is
    store: Callable[[Any], Any] = _as_it_is


def parse_scopes(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return scopes of a list or a space-separated string, each once; None is the default. Raises `KeyRefused`."""
    if given is None:
        return DEFAULT_SCOPES
    names = given.split() if isinstance(given, str) else given
    scopes = tuple(dict.fromkeys(names))
    check_scopes(scopes)
    return scopes


def check_scopes(scopes: tuple[str, ...]) -> None:
    """Reject scopes that are none, too many or not `word:word`; an operator may add any. Raises `KeyRefused`."""
    if not 0 < len(scopes) <= MAX_SCOPES:
        raise KeyRefused("scopes", f"A key has 1 to {MAX_SCOPES} scopes.")
    for scope in scopes:
        if SCOPE.fullmatch(scope) is None:
            raise KeyRefused("scopes", "A scope is word:word in lower case, such as llm:proxy.")


def check_models(models: tuple[str, ...] | None) -> None:
    """Reject what is neither exact names nor prefixes with one `*` at the end. Raises `KeyRefused`."""
    if models is None:
        return
    if not 0 < len(models) <= MAX_MODELS:
        raise KeyRefused("models", f"models has 1 to {MAX_MODELS} names; null allows every model.")
    for model in models:
        if not 0 < len(model) <= MAX_MODEL or "*" in model[:-1]:
            raise KeyRefused(
                "models", f"A model is a name of at most {MAX_MODEL} characters, or a prefix with one * at its end."
            )


def check_tags(tags: Mapping[str, str]) -> None:
    """Reject tags that are too many or too long. Raises `KeyRefused`."""
    if len(tags) > MAX_TAGS:
        raise KeyRefused("tags", f"At most {MAX_TAGS} tags.")
    for name, value in tags.items():
        if not 0 < len(name) <= MAX_TAG_NAME or len(value) > MAX_TAG_VALUE:
            raise KeyRefused(
                "tags", f"A tag's name has 1 to {MAX_TAG_NAME} characters, its value at most {MAX_TAG_VALUE}."
            )


def parse_expiry(given: str | None) -> datetime | None:
    """Return a time in RFC 3339, or the first moment of a day; None is never. Raises `KeyRefused`."""
    try:
        return None if given is None else parse_rfc3339(given)
    except TimeError as error:
        raise KeyRefused("expires_at", f"expires_at: {error}.") from error
