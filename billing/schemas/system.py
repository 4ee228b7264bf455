"""What the gateway says of itself: models, refused requests, health, jobs, the audit log, exports. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from msgspec import UNSET, Meta, UnsetType, structs

from billing.pages import DEFAULT_LIMIT
from billing.schemas.base import Answer, Body, ExactUsd, Filter, Id, Limit, Moment, PageQuery, Query, Since, Usd
from billing.schemas.traffic import ProviderTrafficShape
from billing.times import rfc3339


class PricingShape(Answer, frozen=True, kw_only=True):
    """The price of a model, by class, as the key or account that asks pays it. `price_id` names the row of the
    operator's table that it comes from: customers have it only with `customers_see: cost`."""

    usd_per_million: dict[str, ExactUsd]
    usd_per_unit: dict[str, ExactUsd]
    price_id: str | UnsetType = UNSET


class ModelShape(Answer, frozen=True, kw_only=True):
    """A model that the key may use; the first four fields are OpenAI's, `display_name` is Anthropic's.
    `context_length` and `context_window` are the same number of tokens."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    display_name: str
    max_output_tokens: int | None
    context_length: int | None
    context_window: int | None
    pricing: PricingShape


class ModelsShape(Answer, frozen=True, kw_only=True):
    """Every model that the key may use."""

    object: Literal["list"] = "list"
    data: list[ModelShape]


class OperatorSettingsShape(Answer, frozen=True, kw_only=True):
    """Settings that operators' commands go by: above how much they ask before a grant, and what customers see."""

    grant_confirm_usd: Usd
    customers_see: Literal["charge", "cost"]


class OwnRefusedQuery(Query, frozen=True, kw_only=True):
    """Which refused requests of the account: of one key, or of all."""

    limit: Limit = DEFAULT_LIMIT
    key_id: Filter | None = None


class RefusedQuery(Query, frozen=True, kw_only=True):
    """Which refused requests: of a key, of an account's keys, or of all."""

    limit: Limit = DEFAULT_LIMIT
    key_id: Filter | None = None
    account_id: Filter | None = None


class RefusedShape(Answer, frozen=True, kw_only=True):
    """A request that was refused; `details` is what the refusal said beside its message. `hint` says what whoever runs
    the gateway can do: customers do not get it. Fields that are not known are null."""

    id: str
    created_at: Moment
    account_id: str | None
    key_id: str | None
    endpoint: str
    model: str | None
    status: int
    code: str
    message: str
    details: dict[str, Any]
    hint: str | UnsetType | None = UNSET

    @classmethod
    def of_refused(cls, refused: Any, *, with_hint: bool) -> Self:
        """Return what is kept of a refused request; `with_hint` for operators."""
        created_at = datetime.fromtimestamp(refused.at_ms / 1000, UTC)
        return cls.of(refused, created_at=created_at, hint=refused.hint if with_hint else UNSET)


class TargetShape(Answer, frozen=True, kw_only=True):
    """A base URL and key of a provider. `origin` is the base URL's scheme, host and port; `state` is `open` while it is
    left alone after failures, up to `open_until`, and `half_open` until a request has succeeded there again."""

    number: int
    origin: str
    weight: int
    state: Literal["closed", "open", "half_open"]
    open_until: Moment | None


class ProviderShape(Answer, frozen=True, kw_only=True):
    """A provider of the configuration; `off_reason` says why it is off, null where it is on. `traffic` is how it has
    answered."""

    name: str
    kind: str
    off_reason: str | None
    dialects: list[str]
    models: list[str]
    targets: list[TargetShape]
    traffic: ProviderTrafficShape | None = None


class NewProviderTest(Body, frozen=True, kw_only=True):
    """A test of a provider: by this model, else by the cheapest that writes; at its base URL and key of this number."""

    model: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    target: Annotated[int, Meta(ge=0, le=63)] = 0


class ProviderTestShape(Answer, frozen=True, kw_only=True):
    """How a provider has answered one small request. `status` is null where there was no answer. Times are from the
    request on: until the head of the answer (`head_ms`), the first token (null where the model wrote none) and the end.
    `cost_usd` is what it cost at the provider, null where that can't be told. `error` is what the provider says,
    without secrets; `advice` what to do next. `circuit` is the target's, before the test."""

    provider: str
    model: str
    provider_model: str
    target: int
    origin: str
    circuit: Literal["closed", "open", "half_open"]
    ok: bool
    status: int | None
    head_ms: int | None
    first_token_ms: int | None
    total_ms: int
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: ExactUsd | None
    error: str
    advice: str


class HelloShape(Answer, frozen=True, kw_only=True):
    """That a server is there."""

    message: Literal["hello"] = "hello"


class HealthShape(Answer, frozen=True, kw_only=True):
    """Whether it serves; the message says what troubles it."""

    status: Literal["ok", "degraded", "unavailable"]
    message: str = ""


class SearchQuery(Query, frozen=True, kw_only=True):
    """What is looked for: a name, a mail, an id, or how it begins; of one kind, or of each. Without it nothing is
    found."""

    q: Filter | None = None
    kind: (
        Annotated[
            Literal["account", "person", "key", "request", "order", "model"],
            Meta(description="one of account, person, key, request, order and model"),
        ]
        | None
    ) = None


class FoundShape(Answer, frozen=True, kw_only=True):
    """One thing that was found; `about` tells it from others of its name."""

    kind: Literal["account", "person", "key", "request", "order", "model"]
    id: str
    name: str
    about: str


class NamesQuery(Query, frozen=True, kw_only=True):
    """Of what the names are asked for."""

    ids: Annotated[
        str,
        Meta(
            pattern="^([0-9A-Za-z_]{1,40}(,[0-9A-Za-z_]{1,40}){0,99})?\\Z",
            description="at most 100 ids of accounts, keys, people and organizations, separated by commas",
        ),
    ] = ""


class NamesShape(Answer, frozen=True, kw_only=True):
    """Names by id: of people their addresses. What has none is missing."""

    names: dict[str, str]


class TroubleShape(Answer, frozen=True, kw_only=True):
    """One thing that an operator should look at; `about` names it, such as `provider:openai` or `mail`."""

    about: str
    message: str


class GatewayHealthShape(HealthShape, frozen=True, kw_only=True):
    """The health of the gateway that answers, in all its processes; `message` joins those of `troubles`."""

    troubles: list[TroubleShape]


class ReconcileBody(Body, frozen=True, kw_only=True):
    """A comparison of Redis with the ledger; with `fix` everything is loaded from the ledger anew."""

    fix: bool = False


class DriftShape(Answer, frozen=True, kw_only=True):
    """A difference between Redis and the ledger."""

    account_id: str
    what: str
    redis: Any
    ledger: Any


class ReportShape(Answer, frozen=True, kw_only=True):
    """What a comparison of Redis with the ledger has found; `busy` accounts could not be compared."""

    accounts: int
    busy: int
    drifts: list[DriftShape]

    @classmethod
    def of_report(cls, report: Any) -> Self:
        """Return a report."""
        return cls.of(report, drifts=[DriftShape.of(each) for each in report.drifts])


class CollectBody(Body, frozen=True, kw_only=True):
    """A collection from all exporters; with `since` from that time on, at most 35 days back."""

    since: Since | None = None


class JobShape(Answer, frozen=True, kw_only=True):
    """The last run of a job, with its report once it is done: of a comparison `accounts`, `busy` and `drifts`, of a
    collection the others. `degraded`: some exporters failed, or some traffic stays due."""

    job: str | None = None
    status: Literal["never run", "running", "ok", "degraded", "failed"] = "never run"
    started_at: Moment | UnsetType = UNSET
    error: str | UnsetType = UNSET
    finished_at: Moment | UnsetType = UNSET
    accounts: int | UnsetType = UNSET
    busy: int | UnsetType = UNSET
    drifts: list[DriftShape] | UnsetType = UNSET
    processed_samples: int | UnsetType = UNSET
    written_minutes: int | UnsetType = UNSET
    replayed_minutes: int | UnsetType = UNSET
    conflicts: int | UnsetType = UNSET
    set_aside: int | UnsetType = UNSET
    debits: int | UnsetType = UNSET
    sources: int | UnsetType = UNSET
    failed_sources: int | UnsetType = UNSET
    revision: str | UnsetType = UNSET


def with_run(shape: JobShape, run: Any) -> JobShape:
    """Return the answer of a job together with the counts of its collection."""
    started_at = rfc3339(run.started_at) if shape.started_at is UNSET else shape.started_at
    fields = {name: getattr(run, name) for name in JobShape.__struct_fields__ if name in RunShape.__struct_fields__}
    return structs.replace(shape, **{**fields, "started_at": started_at, "finished_at": rfc3339(run.finished_at)})


class RunShape(Answer, frozen=True, kw_only=True):
    """A run of collection. `conflicts` are samples that said another value than known ones of their time, `set_aside`
    those of times that can't be charged; `revision` is what its facts are marked with."""

    id: int
    job: str
    status: Literal["ok", "degraded", "failed"]
    started_at: Moment
    finished_at: Moment
    sources: int
    failed_sources: int
    processed_samples: int
    written_minutes: int
    replayed_minutes: int
    conflicts: int
    set_aside: int
    debits: int
    revision: str
    error: str


class SubjectsQuery(PageQuery, frozen=True, kw_only=True):
    """Whom exporters count: all, or those alone that have no account."""

    state: Literal["all", "parked"] = "all"


class SubjectShape(Answer, frozen=True, kw_only=True):
    """Whom an exporter counts, by the uuid that it counts them under, and all bytes that it counted."""

    id: int
    uuid: str
    email: str
    account_id: str | None
    created_at: Moment
    bytes: int


class AssignBody(Body, frozen=True, kw_only=True):
    """The account of those that an exporter counts under a uuid, or with an e-mail address."""

    subject: Id
    account_id: Id


class AssignedShape(Answer, frozen=True, kw_only=True):
    """How many did not have the account, and have it now."""

    assigned: int


class ImageShape(Answer, frozen=True, kw_only=True):
    """Which image runs; what can't be read from its name is empty."""

    image: str = ""
    tag: str = ""
    commit: str = ""
    version: str = ""


class OwnAuditQuery(PageQuery, frozen=True, kw_only=True):
    """Which rows: by an actor, of an action (`key.*` means all of a noun), from `since` on and before `until`."""

    actor: Filter | None = None
    action: Filter | None = None
    since: Since | None = None
    until: Since | None = None


class AuditQuery(OwnAuditQuery, frozen=True, kw_only=True):
    """The same, about an account or a user."""

    account_id: Filter | None = None
    user_id: Filter | None = None


class AuditShape(Answer, frozen=True, kw_only=True):
    """A change: `subject` is the id of the changed object, `before` and `after` its content. `address` is the caller's,
    null if it is unknown or not for the reader."""

    id: str
    created_at: Moment
    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    address: str | None
    request_id: str | None
    account_id: str | None
    user_id: str | None

    @classmethod
    def of_entry(cls, entry: Any, *, with_cost: bool = True) -> Self:
        """Return a row of the log; for customers without what tells of the provider's cost."""
        states = entry.before, entry.after
        before, after = states if with_cost else map(_without_cost, states)
        return cls.of(entry, id=str(entry.id), created_at=entry.at, before=before, after=after)


# What a change of an account may say of the price rows that it goes by.
OF_COST: Final = frozenset({"price_ids"})


def _without_cost(state: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if state is None else {name: value for name, value in state.items() if name not in OF_COST}


ExportName = Annotated[str, Meta(min_length=1, max_length=64, description="an export's name")]
Item = Annotated[
    str, Meta(min_length=1, max_length=255, description="a request id, or the identifier of an hour's sum")
]


class ExportShape(Answer, frozen=True, kw_only=True):
    """How an export is: at most `waiting` events are to be told, the oldest of which waits for `lag_seconds`; `parked`
    is what the other side does not take. `error` is that of the last failure since something was taken."""

    name: str
    kind: str
    waiting: int
    lag_seconds: int
    parked: int
    failures: int
    error: str | None
    accepted_at: Moment | None
    created_at: Moment


class ParkedExportsQuery(PageQuery, frozen=True, kw_only=True):
    """Of which export."""

    export: Filter | None = None


class ParkedExportShape(Answer, frozen=True, kw_only=True):
    """What the other side does not take, and why. `item` is the event's request id; of a sum of an hour, the identifier
    under which it was sent. It is tried `again` where an operator has asked for it."""

    export: str
    item: str
    account_id: str
    admitted_at: Moment | None
    reason: str
    again: bool
    parked_at: Moment


class RetryExport(Body, frozen=True, kw_only=True):
    """What is to be tried again: one item of an export, or without `item` all that is parked of it."""

    export: ExportName
    item: Item | None = None


class RetriedShape(Answer, frozen=True, kw_only=True):
    """How much is tried again."""

    retried: int
