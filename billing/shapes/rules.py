"""What a rule of a key is: how it is read, checked, shown, stored, and given to a command. The rules themselves are in
`billing.shapes.keys`. Pure.

ApiKeyError
+-- KeyConflict     it can't be done to this key as things stand: it was revoked, there are too many
+-- KeyNotFound     no key has this id
+-- KeyRefused      a key can't be so; `field` says what of it
+-- ScopeWithheld   who makes or changes a key may not give it this scope
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from billing.errors import MetergateError

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
ExpiryBody = Annotated[
    str,
    Meta(
        description="RFC 3339 or a day; null: never",
        examples=["2037-01-31T12:00:00Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
TagsBody = Annotated[
    dict[str, Annotated[str, Meta(extra_json_schema={"maxLength": MAX_TAG_VALUE})]],
    Meta(
        extra_json_schema={
            "maxProperties": MAX_TAGS,
            "propertyNames": {"minLength": 1, "maxLength": MAX_TAG_NAME},
        }
    ),
]
"""What is checked by the rules themselves, whose messages say more: the schemas say the same to programs."""


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
            f'has it. Where yours has: `metergate auth token --scope "{scope}"`; else ask an admin or the operator.'
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
