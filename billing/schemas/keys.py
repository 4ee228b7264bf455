"""Keys: the one declaration of what a key may say, and how it is read, checked, shown, stored and given to a
command. Pure.

`KeyRules` has a field for each rule. From these fields follow the columns that are written and read
(`billing.keys.keys`), what a change may name, what the audit log holds, and the options of `metergate operator key`;
`RulesBody` and `KeyShape` say how the API takes and answers each. A test compares the three.

ApiKeyError
+-- KeyConflict     it can't be done to this key as things stand: it was revoked, there are too many
+-- KeyNotFound     no key has this id
+-- KeyRefused      a key can't be so; `field` says what of it
+-- ScopeWithheld   who makes or changes a key may not give it this scope
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from billing.errors import MetergateError
from billing.quotas import MAX_TOOL_CALLS, Metric, Quota, Window, check_quotas, parse_quotas, quota_json
from billing.schemas.base import Answer, Body, Filter, Id, Moment, Name, PageQuery
from billing.schemas.quotas import QuotaShape, QuotasOrNull, WindowShape
from billing.times import TimeError, parse_rfc3339, rfc3339

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
    kind: Literal["text", "texts", "quotas", "pairs", "number", "time"]
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


def check_parallel(bound: int | None) -> None:
    """Reject a bound of requests at once that is not above zero; None is no bound. Raises `KeyRefused`."""
    if bound is not None and not 0 < bound < 2**31:
        raise KeyRefused("max_parallel_requests", "max_parallel_requests must be above zero and below 2^31.")


def check_tool_calls(calls: int | None) -> None:
    """Reject a number of granted calls of tools that is out of bounds; None: as the plan says. Raises `KeyRefused`."""
    if calls is not None and not 0 < calls <= MAX_TOOL_CALLS:
        raise KeyRefused("default_tool_calls", f"default_tool_calls must be from 1 to {MAX_TOOL_CALLS}.")


def total_tokens_quota(limit: int) -> tuple[Quota, ...]:
    """Return the shorthand `quota`: so many tokens in total; 0 is unlimited. Raises `quotas.QuotaError`."""
    return (Quota(Window.total, Metric.tokens, limit),) if limit else ()


def _quotas_json(quotas: Iterable[Quota]) -> list[dict[str, object]]:
    return [quota_json(quota) for quota in quotas]


def _texts(given: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(given)


_SCOPES: Final = Rule(
    Option("--scope", "texts", "SCOPE", "Such as llm:proxy or billing:read; may be given several times.", "scopes"),
    parse=parse_scopes,
    check=check_scopes,
    load=tuple,
)
_MODELS: Final = Rule(
    Option(
        "--model",
        "texts",
        "MODEL",
        "A model that the key may use, or a prefix*; several times; else every model.",
        "models",
        "every model",
    ),
    parse=_texts,
    check=check_models,
    load=_texts,
)
_QUOTAS: Final = Rule(
    Option(
        "--quota",
        "quotas",
        "WINDOW:METRIC=LIMIT[@MODEL]",
        "Such as day:tokens=100000, month:cost=12.50, minute:requests=60@gpt-4*; may be given several times.",
        "quotas",
    ),
    parse=lambda given: parse_quotas(() if given is None else given),
    check=check_quotas,
    show=_quotas_json,
    load=parse_quotas,
    store=_quotas_json,
)
_PARALLEL: Final = Rule(
    Option("--max-parallel", "number", "N", "Most requests at the same time.", "max-parallel", "no bound"),
    check=check_parallel,
)
_TOOL_CALLS: Final = Rule(
    Option(
        "--tool-calls",
        "number",
        "N",
        "Most calls of tools that run at the provider, for a request that does not say how many.",
        "tool-calls",
        "as the plan",
    ),
    check=check_tool_calls,
)
_EXPIRES_AT: Final = Rule(
    Option(
        "--expires-at",
        "time",
        "TIME",
        "A time such as 2027-01-31T12:00:00Z, or a day such as 2027-01-31.",
        "expires-at",
        "never",
    ),
    parse=parse_expiry,
    show=lambda at: at and rfc3339(at),
)
_TAGS: Final = Rule(
    Option("--tag", "pairs", "NAME=VALUE", "Kept with every request of the key; may be given several times.", "tags"),
    parse=lambda given: given or {},
    check=check_tags,
    show=dict,
    store=dict,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRules:
    """What a key may say. `models` None allows every model; names may end in `*`."""

    scopes: tuple[str, ...] = field(default=DEFAULT_SCOPES, metadata={"rule": _SCOPES})
    models: tuple[str, ...] | None = field(default=None, metadata={"rule": _MODELS})
    quotas: tuple[Quota, ...] = field(default=(), metadata={"rule": _QUOTAS})
    max_parallel_requests: int | None = field(default=None, metadata={"rule": _PARALLEL})
    default_tool_calls: int | None = field(default=None, metadata={"rule": _TOOL_CALLS})
    expires_at: datetime | None = field(default=None, metadata={"rule": _EXPIRES_AT})
    tags: Mapping[str, str] = field(default_factory=dict, metadata={"rule": _TAGS})

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            rule.check(getattr(self, name))


# By the name that a rule has in JSON, in `KeyRules` and as a column of api_keys.
RULES: Final[Mapping[str, Rule]] = {each.name: each.metadata["rule"] for each in fields(KeyRules)}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow(KeyRules):
    """A row of api_keys without its digests. `previous_until` is how long the secret before its own is valid."""

    id: str
    account_id: str
    user_id: str | None
    name: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    version: int
    previous_until: datetime | None = None


def given_rules(body: RulesBody) -> dict[str, Any]:
    """Return the rules that a body sets, parsed, without those that it leaves unset. Raises `KeyRefused`,
    `QuotaError`."""
    return {name: rule.parse(value) for name, rule in RULES.items() if (value := getattr(body, name)) is not UNSET}


def rules_shown(rules: KeyRules) -> dict[str, Any]:
    """Return a key's rules as JSON has them."""
    return {name: rule.show(getattr(rules, name)) for name, rule in RULES.items()}


class RulesBody(Body, frozen=True, kw_only=True):
    """A key's rules. An absent one is the default, or in a change stays as it was; null is the default."""

    scopes: ScopesText | ScopesList | UnsetType | None = UNSET
    models: ModelsBody | UnsetType | None = UNSET
    quotas: QuotasOrNull = UNSET
    max_parallel_requests: ParallelBody | UnsetType | None = UNSET
    default_tool_calls: ToolCallsBody | UnsetType | None = UNSET
    expires_at: ExpiryBody | UnsetType | None = UNSET
    tags: TagsBody | UnsetType | None = UNSET


class NewKey(RulesBody, frozen=True, kw_only=True):
    """A key to make; `quota` is so many tokens in total, 0 for no limit."""

    account_id: Id
    name: Name
    quota: Annotated[int, Meta(ge=0)] = 0
    user_id: Id | None = None


class NewOwnKey(RulesBody, frozen=True, kw_only=True):
    """A key to make in one's own account: `user_id` is a member's, one's own where it is absent; `quota` is so many
    tokens in total, 0 for no limit."""

    name: Name
    quota: Annotated[int, Meta(ge=0)] = 0
    user_id: Id | None = None


class LeakedKey(Body, frozen=True, kw_only=True):
    """A secret that somebody has found."""

    key: Annotated[str, Meta(min_length=1, max_length=255)]


class LeakedShape(Answer, frozen=True, kw_only=True):
    """The same for every secret."""

    success: bool
    message: str


class OwnKeysQuery(PageQuery, frozen=True, kw_only=True):
    """Whose keys of the account: one user's, or everyone's."""

    user_id: Filter | None = None


class KeyPatch(RulesBody, frozen=True, kw_only=True):
    """A change of a key: what is absent stays as it is, null clears."""

    name: Name | UnsetType = UNSET


class KeyShape(Answer, frozen=True, kw_only=True):
    """A key without its secret. `warnings` of a key just made or changed say what may not be meant."""

    id: str
    prefix: Annotated[str, Meta(description="the secret's first characters")]
    name: str
    account_id: str
    user_id: str | None
    scopes: list[str]
    models: Annotated[list[str] | None, Meta(description="null: every model")]
    quotas: list[QuotaShape]
    max_parallel_requests: int | None
    default_tool_calls: Annotated[int | None, Meta(description="null: as the plan says")]
    tags: dict[str, str]
    created_at: Moment
    expires_at: Moment | None
    last_used_at: Moment | None
    revoked_at: Moment | None
    warnings: list[str] | UnsetType = UNSET


class KeyLimitsShape(KeyShape, frozen=True, kw_only=True):
    """A key, and every window that applies to it."""

    windows: list[WindowShape]


class NewKeyShape(KeyShape, frozen=True, kw_only=True):
    """A key just made: `key` is its secret, which no other answer holds."""

    key: str


class RotatedKeyShape(NewKeyShape, frozen=True, kw_only=True):
    """A key with a new secret; the one before it is valid until `previous_until`, null: no more."""

    previous_until: Moment | None


class Rotation(Body, frozen=True, kw_only=True):
    """How long the secret before stays valid beside the new one, in seconds."""

    grace_seconds: Annotated[int, Meta(ge=0)] = 0


class KeysQuery(PageQuery, frozen=True, kw_only=True):
    """Which keys: those of one account, or all."""

    account_id: Filter | None = None
