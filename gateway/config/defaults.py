"""The `defaults` of metergate.yaml: every bound of the gateway's behaviour with its range, default and help.

Each part takes the section that it follows. Keys of the file are the sections' fields, whichever section has them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, structs

from billing.permissions import CustomersSee
from billing.plans import DEFAULT_PLAN
from billing.quotas import MAX_TOOL_CALLS
from billing.settings import (
    DAY_S,
    MIB,
    CodeSettings,
    CollectSettings,
    MailSettings,
    OrganizationSettings,
    RefusalSettings,
    RetentionSettings,
    ScimSettings,
    ServiceSettings,
    WebhookSettings,
    about,
    within,
)
from gateway.config.source import Key, keys_of, nearest, text
from gateway.dialects.body import StructureBounds

if TYPE_CHECKING:
    from gateway.config.source import Value

MissingUsage = Literal["estimate", "hold", "free"]
ExpiredHold = Literal["void", "input"]
Edge = Literal["guarded", "plain"]
UnknownTools = Literal["pass", "refuse"]
# Those of Claude Code and of Codex CLI.
SESSION_HEADERS: Final = ("x-claude-code-session-id", "session-id", "session_id", "thread-id")
Name = Annotated[str, text("a name", ".+")]
Share = Annotated[
    str,
    text(
        'a share above 0 to 1 such as "0.25"',
        r"(?!0?\.0+\Z)0?\.\d{1,6}|1(\.0{1,6})?",
        bare=True,
        allowed="above 0 to 1, at most 6 decimals",
    ),
]
Names = tuple[Name, ...]


class EstimateSettings(Struct, frozen=True):
    """How the worst case of a request is estimated."""

    strict: Annotated[bool, about("holds are true upper bounds: no balance or window is ever overrun")] = True
    min_output_tokens: Annotated[int, within(1, 100_000, "least output that an elastic hold must afford")] = 16
    estimated_output_tokens: Annotated[int, within(1, 1_000_000, "output that a hold covers when `strict` is off")] = (
        512
    )
    default_tool_calls: Annotated[
        int,
        within(
            1, MAX_TOOL_CALLS, "calls of tools at the provider for a request that does not bound them, as many as fit"
        ),
    ] = 8
    tool_call_tokens: Annotated[
        int, within(0, 10_000_000, "input that one such call is held for, where the price row says nothing else")
    ] = 16_384
    strict_tools: Annotated[
        bool, about("each round of a request with such tools is held as a whole context window")
    ] = False
    moderation_model: Annotated[Name, about("model of a request to /v1/moderations that names none")] = (
        "omni-moderation-latest"
    )

    def granting(self, *tool_calls: int | None) -> EstimateSettings:
        """Return the same with the first of these numbers that is one, if any, as `default_tool_calls`."""
        most = next((calls for calls in tool_calls if calls is not None), self.default_tool_calls)
        return self if most == self.default_tool_calls else structs.replace(self, default_tool_calls=most)


class AttemptSettings(Struct, frozen=True):
    """Attempts of one request at providers."""

    max_attempts: Annotated[int, within(1, 32, "attempts of one request at providers, before its answer begins")] = 4
    retries: Annotated[
        int, within(0, 10, "how often a provider is asked again after 429, 5xx, a timeout or no connection")
    ] = 0
    retry_backoff_ms: Annotated[
        int, within(1, 60_000, "wait before the first retry; it doubles with each, half is random")
    ] = 250
    retry_wait_s: Annotated[
        float, within(0.001, 600, "longest wait before a retry; a longer Retry-After forbids it")
    ] = 10
    attempt_timeout_s: (
        Annotated[float, within(0.05, 86_400, "longest wait for the head of an answer; null: upstream_timeout_s")]
        | None
    ) = None
    attempts_deadline_s: Annotated[float, within(0.05, 86_400, "time for all attempts of a request together")] = 600


class RequestSettings(Struct, frozen=True):
    """A metered request from its body to its last byte."""

    unknown_tools: Annotated[
        UnknownTools, about("a tool of a type that is not known here: held like these, or 400")
    ] = "pass"
    tool_overrun: Annotated[
        float, within(0, 1000, "a stream whose open tools go beyond its hold by more than so many times that is cut")
    ] = 1.0
    missing_usage: Annotated[MissingUsage, about("charge for an answer without usage")] = "estimate"
    expired_hold: Annotated[ExpiredHold, about("charge for a hold whose gateway died")] = "void"
    disconnect_drain_s: Annotated[float, within(0, 3600, "how long an upstream is read on after its client left")] = 5
    reasoning_drain_s: Annotated[
        float,
        within(
            0, 3600, "the same where the price row says `hidden_reasoning`; without usage by then the hold is charged"
        ),
    ] = 60
    max_request_s: Annotated[
        float, within(0.05, 86_400, "longest life of a request after admission; then it is cut")
    ] = 3600
    max_usage_factor: Annotated[
        int,
        within(
            1,
            1_000_000,
            "a report above so many times a strict hold (with tools at the provider: whole windows) is not believed",
        ),
    ] = 20
    upload_timeout_s: Annotated[float, within(0.05, 86_400, "time for a client to send a request's body")] = 300
    session_headers: Annotated[
        Names,
        Meta(max_length=16),
        about("headers that name a request's session where `X-Metergate-Session` does not, the first that is there"),
    ] = SESSION_HEADERS
    upstream_answer_bytes: Annotated[int, within(1024, 1024 * MIB, "largest answer that is read whole")] = 64 * MIB


class BackgroundSettings(Struct, frozen=True):
    """Background responses."""

    background_poll_s: Annotated[float, within(0.05, 3600, "time between questions after a background response")] = 2
    background_lease_s: Annotated[
        float, within(0.5, 3600, "a gateway that has not asked for as long leaves it to others")
    ] = 30
    background_expiry_s: Annotated[float, within(1, 31 * DAY_S, "after that a background response costs its hold")] = (
        86_400
    )
    background_jobs: Annotated[
        int, within(1, 100_000, "background responses of one process, half of them of one account")
    ] = 1000


class BodySettings(Struct, frozen=True):
    """Request bodies in one process's memory."""

    large_body_bytes: Annotated[
        int, within(1024, 1024 * MIB, "a larger body is parsed off the event loop, after a look at status and balance")
    ] = 262_144
    body_bytes_in_flight: Annotated[
        int, within(MIB, 8192 * MIB, "request bodies in one process's memory; never below PROXY_MAX_BODY_BYTES")
    ] = 96 * MIB
    account_body_bytes_in_flight: Annotated[
        int, within(MIB, 8192 * MIB, "and of one account; never below PROXY_MAX_BODY_BYTES")
    ] = 48 * MIB


class EdgeSettings(Struct, frozen=True):
    """Clients' connections, and what is read from them."""

    edge: Annotated[Edge, about("plain: served without private parts of aiohttp; slower, and holds less")] = "guarded"
    max_connections: Annotated[
        int,
        within(
            1, 1_000_000, "clients' connections to one process; above, those that wait longest for their clients end"
        ),
    ] = 8192
    connections_per_address: Annotated[
        int,
        within(
            1, 1_000_000, "of these, those of one client's address (an IPv6 /64); at most half of what there may be"
        ),
    ] = 4096
    connections_per_account: Annotated[
        int, within(1, 1_000_000, "of these, those with requests of one account; at most half of what there may be")
    ] = 4096
    head_timeout_s: Annotated[float, within(0.05, 3600, "time for a client to send a request's line and headers")] = 10
    head_bytes_in_flight: Annotated[
        int,
        within(
            MIB,
            1024 * MIB,
            "requests' lines and headers that are not whole yet, in one process; above, the largest end",
        ),
    ] = 32 * MIB
    client_write_timeout_s: Annotated[
        float, within(0.05, 3600, "longest time without a client taking any of its answer")
    ] = 60
    body_bytes_per_s: Annotated[
        int, within(65_536, 8192 * MIB, "how fast one process takes all bodies together, after a burst")
    ] = 32 * MIB
    body_min_bytes_per_s: Annotated[
        int,
        within(1, 1024 * MIB, "the slowest that a request's body may come; it ends once it is `body_slow_s` behind"),
    ] = 500
    body_slow_s: Annotated[
        float, within(0.05, 3600, "how far a body may fall behind `body_min_bytes_per_s` before it ends")
    ] = 20
    linger_s: Annotated[
        float, within(0, 60, "how long the rest of a refused body is read, so that its client sees why")
    ] = 2
    linger_bytes: Annotated[int, within(0, 1024 * MIB, "how much of the rest of a refused body is read")] = 16 * MIB


class ClientSocketSettings(Struct, frozen=True):
    """WebSockets of clients."""

    response_sockets: Annotated[
        int, within(1, 100_000, "WebSockets of clients at `/v1/responses` that one process has")
    ] = 1000
    response_sockets_per_account: Annotated[int, within(1, 100_000, "of these at most, of one account")] = 50
    response_socket_s: Annotated[float, within(1, 86_400, "a WebSocket ends after that, with the answer under way")] = (
        3600
    )


class UpstreamSettings(Struct, frozen=True):
    """Connections to providers."""

    upstream_timeout_s: Annotated[float, within(0.05, 86_400, "longest silence of an upstream")] = 600
    upstream_connections: Annotated[int, within(1, 100_000, "connections to one provider of one process")] = 1000
    upstream_account_share: Annotated[float, within(0.001, 1, "of these, what one account may have; at least one")] = (
        0.5
    )
    upstream_waiting: Annotated[int, within(0, 100_000, "requests that may wait for one, for connect_timeout_s")] = 1000
    provider_test_s: Annotated[float, within(0.1, 25, "longest test of a provider by an operator")] = 15


class StoreSettings(Struct, frozen=True):
    """Redis and Postgres, and what a process remembers of them."""

    connect_timeout_s: Annotated[
        float, within(0.1, 120, "longest wait for a connection to Redis, Postgres or an upstream")
    ] = 5
    redis_timeout_ms: Annotated[int, within(10, 60_000, "silence of Redis after which an admission is refused")] = 500
    redis_partitions: (
        Annotated[int, within(1, 1024, "partitions of the accounts; null: 1 embedded, 64 otherwise")] | None
    ) = None
    postgres_pool_size: Annotated[
        int, within(1, 100, "connections to Postgres of one process, for admissions and debits")
    ] = 4
    replica_lag_s: Annotated[
        float, within(1, 3600, "reports are read from the primary while DATABASE_REPLICA_URL is as far behind")
    ] = 5
    api_pool_size: Annotated[int, within(1, 100, "and beside them, for calls of the billing API")] = 4
    postgres_timeout_s: Annotated[float, within(0.1, 600, "longest statement")] = 10
    ledger_batch_rows: Annotated[int, within(1, 10_000, "debits in one transaction")] = 500
    ledger_flush_ms: Annotated[int, within(1, 10_000, "longest wait of a debit for its transaction to begin")] = 200
    ledger_lock_ms: Annotated[
        int,
        within(
            1, 10_000, "how long debits, or the loading of an account, wait for a row that another session has locked"
        ),
    ] = 250
    principal_cache_entries: Annotated[int, within(1, 10_000_000, "keys that one process remembers")] = 100_000
    principal_cache_s: Annotated[float, within(0, 3600, "how long it believes them without asking again")] = 900
    negative_cache_entries: Annotated[int, within(0, 10_000_000, "wrong keys that one process remembers")] = 10_000
    negative_cache_s: Annotated[float, within(0, 300, "how long it believes that they are wrong")] = 5
    failed_attempts: Annotated[int, within(1, 1_000_000, "wrong keys of one address in a window before 429")] = 20
    failed_attempts_window_s: Annotated[float, within(1, 86_400, "how long wrong keys of an address count")] = 60


class HoldSettings(Struct, frozen=True):
    """Admission and settlement."""

    batch_items: Annotated[int, within(1, 64, "admissions and settlements in one script call")] = 32
    max_unsettled: Annotated[
        int, within(1, 10_000_000, "requests that run and debits that wait for Postgres, in all, before 503")
    ] = 100_000
    settle_timeout_ms: Annotated[
        int, within(10, 60_000, "silence of Redis after which a debit goes straight to Postgres")
    ] = 500
    admission_wait_ms: Annotated[int, within(0, 60_000, "longest wait for an admission before 503")] = 2000
    admission_queue_requests: Annotated[
        int,
        within(
            0,
            100_000,
            "requests of one account that may wait in one process for running ones (a plan's admission_queue_s)",
        ),
    ] = 256
    elastic_share: Annotated[Share, about("the share of what is free that one elastic hold may take")] = "0.25"
    elastic_output_tokens: Annotated[
        int,
        within(
            0, 10_000_000, "output tokens that an elastic hold may take beyond `elastic_share`, where they are free"
        ),
    ] = 4096
    lease_s: Annotated[
        float, within(0.5, 300, "a gateway that does not renew its lease for as long is dead: its holds end")
    ] = 5
    stall_s: Annotated[
        float, within(1, 3600, "a worker whose event loop stands still for longer renews its lease no more")
    ] = 30


class ProcessSettings(Struct, frozen=True):
    """A gateway's processes and its work beside requests."""

    pages_idle_s: Annotated[
        float,
        within(0, 86_400, "a process of its own makes pages until nobody has looked for as long; 0: workers make them"),
    ] = 300
    shutdown_grace_s: Annotated[float, within(0, 3600, "time for running requests when the gateway stops")] = 30
    reconcile_interval_s: Annotated[float, within(1, 86_400, "time between comparisons of Redis with the ledger")] = 300
    request_log_lines: Annotated[
        int, within(1, 1_000_000, "lines that may wait for the request log; more are dropped")
    ] = 10_000
    traces_waiting: Annotated[
        int, within(1, 100_000, "traces that may wait in one process for their endpoint; more are dropped")
    ] = 2048
    export_alarm_s: Annotated[
        float,
        within(60, 31 * DAY_S, "an export whose oldest event waits for as long raises an alarm, and degrades /healthz"),
    ] = 21_600


class AccountSettings(Struct, frozen=True):
    """Accounts, their keys and what they see."""

    default_plan: Annotated[Name, about("plan of a new account; must be in plans.yaml")] = DEFAULT_PLAN
    customers_see: Annotated[
        CustomersSee, about("what customers see: their charges, or the providers' costs as well")
    ] = "charge"
    grant_confirm_usd: Annotated[
        int, within(0, 9_000_000, "commands ask before `operator grant` gives more than so many USD, or a coupon may")
    ] = 1000
    keys_per_user: Annotated[int, within(1, 100_000, "API keys of one user in one account, made without operators")] = (
        100
    )
    rotation_grace_s: Annotated[
        int, within(0, 31_536_000, "longest time that the secret before a key's rotation stays valid")
    ] = 604_800


class SignInSettings(Struct, frozen=True):
    """Tokens and sessions of people."""

    signing_key_days: Annotated[
        int, within(1, 3650, "a key signs tokens for as long; the next one is published before")
    ] = 30
    issuer_timeout_s: Annotated[float, within(0.1, 60, "longest wait for an answer of another issuer of sign-ins")] = 5
    issuer_answer_bytes: Annotated[int, within(1024, 64 * MIB, "and its largest answer")] = MIB
    refresh_grace_s: Annotated[float, within(0, 300, "a used refresh token gives the same successor for as long")] = 10
    sessions_per_user: Annotated[int, within(1, 10_000, "sessions of one person; those used last stay")] = 100
    passwords_at_once: Annotated[
        int, within(1, 64, "passwords that one process hashes at once, 64 MiB each; then 429")
    ] = 2
    sign_ins_at_once: Annotated[
        int,
        within(
            2,
            10_000,
            "people who sign in, register or reset a password at once in a process; of what is free, an eighth of one "
            "address (an IPv6 /48)",
        ),
    ] = 64


class Defaults(Struct, frozen=True, kw_only=True):
    """All sections."""

    estimate: EstimateSettings = EstimateSettings()
    attempts: AttemptSettings = AttemptSettings()
    request: RequestSettings = RequestSettings()
    structure: StructureBounds = StructureBounds()
    background: BackgroundSettings = BackgroundSettings()
    bodies: BodySettings = BodySettings()
    edge: EdgeSettings = EdgeSettings()
    client_sockets: ClientSocketSettings = ClientSocketSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    stores: StoreSettings = StoreSettings()
    holds: HoldSettings = HoldSettings()
    process: ProcessSettings = ProcessSettings()
    accounts: AccountSettings = AccountSettings()
    sign_in: SignInSettings = SignInSettings()
    codes: CodeSettings = CodeSettings()
    organizations: OrganizationSettings = OrganizationSettings()
    scim: ScimSettings = ScimSettings()
    mails: MailSettings = MailSettings()
    webhooks: WebhookSettings = WebhookSettings()
    services: ServiceSettings = ServiceSettings()
    collect: CollectSettings = CollectSettings()
    refusals: RefusalSettings = RefusalSettings()
    retention: RetentionSettings = RetentionSettings()

    def having(self, **values: Any) -> Defaults:
        """Return the same with other values, by their keys. Raises `ValueError` for one that is out of range."""
        changed: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            section, key = KEYS[name]
            try:
                found = msgspec.convert(value, key.field.type)
            except msgspec.ValidationError as error:
                raise ValueError(f"{name} must be {key.kind.allowed}") from error
            changed.setdefault(section, {})[key.field.name] = found
        return structs.replace(
            self, **{section: structs.replace(getattr(self, section), **fields) for section, fields in changed.items()}
        )


# The keys of the file, each with its section's name.
KEYS: Final[dict[str, tuple[str, Key]]] = {
    name: (section.name, key) for section in structs.fields(Defaults) for name, key in keys_of(section.type).items()
}


def read_defaults(main: Value, at: Value | None, plans: Collection[str] | None) -> Defaults:
    """Return the defaults that stand at `at`; those that are left out, or wrong, are the shipped ones.

    The plan of new accounts must be one of `plans` (None: they can't be read), whether the file `main` names it or not.
    """
    values = {} if at is None else at.section(KEYS).values
    before = len(main.file.problems)
    given = {
        name: key.kind.read(values[name])
        for name, (_, key) in KEYS.items()
        if name in values and not (key.kind.optional and values[name].is_null)
    }
    plan = given.get("default_plan") or DEFAULT_PLAN
    if plans is not None and plan not in plans:
        named = values.get("default_plan") or at or main
        message = f'expected a plan of plans.yaml, got "{plan}"{nearest(plan, plans)}'
        main.file.problems.add(named.where, "defaults.default_plan", message)
    if len(main.file.problems) > before:
        return Defaults()
    try:
        return Defaults().having(**given)
    except ValueError as error:
        (at or main).problem(str(error))
        return Defaults()
