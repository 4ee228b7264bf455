"""The `defaults` of metergate.yaml. This file owns every bound of the gateway's behaviour: name, default, range, help.

The fields are the data: the reader, the check on construction and the documentation's table all go by their metadata.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from billing.collect.snapshots import FirstPoint, Unknown
from billing.identity.callers import CustomersSee
from billing.plans import DEFAULT_PLAN, MAX_TOOL_CALLS
from gateway.config.bounds import Bound
from gateway.config.problems import nearest

if TYPE_CHECKING:
    from gateway.config.source import Value

MissingUsage = Literal["estimate", "hold", "free"]
ExpiredHold = Literal["void", "input"]
Edge = Literal["guarded", "plain"]
UnknownTools = Literal["pass", "refuse"]
MIB: Final = 1024 * 1024
SESSION_HEADERS: Final = ("x-claude-code-session-id", "session-id", "session_id", "thread-id")
"""Those of Claude Code and of Codex CLI."""


def _bound(default: object, bound: Bound) -> Any:
    return field(default=default, metadata={"bound": bound})


def _whole(default: int | None, low: int, high: int, text: str) -> Any:
    return _bound(default, Bound("whole", text, low, high, optional=default is None))


def _seconds(default: float, low: float, high: float, text: str) -> Any:
    return _bound(default, Bound("number", text, low, high))


def _choice(choices: tuple[str, ...], text: str) -> dict[str, Bound]:
    return {"bound": Bound("choice", text, choices=choices)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds and policies; durations in seconds or milliseconds by their names. Raises `ValueError` out of range."""

    strict: bool = _bound(True, Bound("truth", "holds are true upper bounds: no balance or window is ever overrun"))
    min_output_tokens: int = _whole(16, 1, 100_000, "least output that an elastic hold must afford")
    elastic_share: str = _bound("0.25", Bound("share", "of what is free, what one elastic hold may take"))
    elastic_output_tokens: int = _whole(
        4096, 0, 10_000_000, "but so many output tokens it may take where they are free"
    )
    estimated_output_tokens: int = _whole(512, 1, 1_000_000, "output that a hold covers when `strict` is off")
    default_tool_calls: int = _whole(
        8,
        1,
        MAX_TOOL_CALLS,
        "calls of tools at the provider for a request that does not bound them, as many as fit",
    )
    tool_call_tokens: int = _whole(
        16_384, 0, 10_000_000, "input that one such call is held for, where the price row says nothing else"
    )
    strict_tools: bool = _bound(
        False, Bound("truth", "each round of a request with such tools is held as a whole context window")
    )
    unknown_tools: UnknownTools = field(
        default="pass",
        metadata=_choice(get_args(UnknownTools), "a tool of a type that is not known here: held like these, or 400"),
    )
    tool_overrun: float = _bound(
        1.0,
        Bound("number", "a stream whose open tools go beyond its hold by more than so many times that is cut", 0, 1000),
    )
    missing_usage: MissingUsage = field(
        default="estimate", metadata=_choice(get_args(MissingUsage), "charge for an answer without usage")
    )
    expired_hold: ExpiredHold = field(
        default="void", metadata=_choice(get_args(ExpiredHold), "charge for a hold whose gateway died")
    )
    disconnect_drain_s: float = _seconds(5, 0, 3600, "how long an upstream is read on after its client left")
    reasoning_drain_s: float = _seconds(
        60, 0, 3600, "the same where the price row says `hidden_reasoning`; without usage by then the hold is charged"
    )
    max_request_s: float = _seconds(3600, 0.05, 86_400, "longest life of a request after admission; then it is cut")
    client_write_timeout_s: float = _seconds(60, 0.05, 3600, "longest time without a client taking any of its answer")
    max_usage_factor: int = _whole(
        20,
        1,
        1_000_000,
        "a report above so many times a strict hold (with tools at the provider: whole windows) is not believed",
    )
    upstream_timeout_s: float = _seconds(600, 0.05, 86_400, "longest silence of an upstream")
    max_attempts: int = _whole(4, 1, 32, "attempts of one request at providers, before its answer begins")
    retries: int = _whole(0, 0, 10, "how often a provider is asked again after 429, 5xx, a timeout or no connection")
    retry_backoff_ms: int = _whole(250, 1, 60_000, "wait before the first retry; it doubles with each, half is random")
    retry_wait_s: float = _seconds(10, 0.001, 600, "longest wait before a retry; a longer Retry-After forbids it")
    attempt_timeout_s: float | None = _bound(
        None,
        Bound(
            "number",
            "longest wait for the head of an answer; null: upstream_timeout_s",
            0.05,
            86_400,
            optional=True,
        ),
    )
    attempts_deadline_s: float = _seconds(600, 0.05, 86_400, "time for all attempts of a request together")
    upload_timeout_s: float = _seconds(300, 0.05, 86_400, "time for a client to send a request's body")
    large_body_bytes: int = _whole(
        256 * 1024, 1024, 1024 * MIB, "a larger body is parsed off the event loop, after a look at status and balance"
    )
    body_bytes_in_flight: int = _whole(
        96 * MIB, MIB, 8 * 1024 * MIB, "request bodies in one process's memory; never below PROXY_MAX_BODY_BYTES"
    )
    account_body_bytes_in_flight: int = _whole(
        48 * MIB, MIB, 8 * 1024 * MIB, "and of one account; never below PROXY_MAX_BODY_BYTES"
    )
    body_bytes_per_s: int = _whole(
        32 * MIB, 64 * 1024, 8 * 1024 * MIB, "how fast one process takes all bodies together, after a burst"
    )
    head_timeout_s: float = _seconds(10, 0.05, 3600, "time for a client to send a request's line and headers")
    head_bytes_in_flight: int = _whole(
        32 * MIB,
        MIB,
        1024 * MIB,
        "requests' lines and headers that are not whole yet, in one process; above, the largest end",
    )
    linger_s: float = _seconds(2, 0, 60, "how long the rest of a refused body is read, so that its client sees why")
    linger_bytes: int = _whole(16 * MIB, 0, 1024 * MIB, "and how much of it")
    body_min_bytes_per_s: int = _whole(500, 1, 1024 * MIB, "a body that comes more slowly than that ends")
    body_slow_s: float = _seconds(20, 0.05, 3600, "once it is so far behind")
    max_connections: int = _whole(
        8_192, 1, 1_000_000, "clients' connections to one process; above, those that wait longest for their clients end"
    )
    connections_per_address: int = _whole(
        4_096, 1, 1_000_000, "of these, those of one client's address (an IPv6 /64); at most half of what there may be"
    )
    connections_per_account: int = _whole(
        4_096, 1, 1_000_000, "and those with requests of one account; at most half of what there may be"
    )
    edge: Edge = field(
        default="guarded",
        metadata=_choice(get_args(Edge), "plain: served without private parts of aiohttp; slower, and holds less"),
    )
    pages_idle_s: float = _seconds(
        300, 0, 86_400, "a process of its own makes pages until nobody has looked for as long; 0: workers make them"
    )
    max_unsettled: int = _whole(
        100_000, 1, 10_000_000, "requests that run and debits that wait for Postgres, in all, before 503"
    )
    shutdown_grace_s: float = _seconds(30, 0, 3600, "time for running requests when the gateway stops")
    reconcile_interval_s: float = _seconds(300, 1, 86_400, "time between comparisons of Redis with the ledger")
    unknown_subjects: Unknown = field(
        default="create", metadata=_choice(get_args(Unknown), "what becomes of traffic of somebody who has no account")
    )
    first_point: FirstPoint = field(
        default="new",
        metadata=_choice(
            get_args(FirstPoint),
            "what the first value of a counter is: all new traffic where an earlier snapshot of the node lacks it, "
            "nothing, or all new traffic",
        ),
    )
    collect_at_once: int = _whole(4, 1, 100, "exporters that are read at the same time")
    collect_pages: int = _whole(500, 1, 100_000, "pages of one exporter that one run reads; the next run goes on")
    collect_snapshots: int = _whole(100, 1, 100_000, "snapshots that an exporter is asked for at once (`limit`)")
    collect_answer_bytes: int = _whole(16 * MIB, 1024, 256 * MIB, "largest page of an exporter")
    collect_overlap_s: float = _seconds(
        300, 0, 86_400, "a window begins so long before the last snapshot, for those that come late"
    )
    collect_keep_days: int = _whole(37, 37, 3650, "days that what counters said is kept; sums by hour stay for good")
    moderation_model: str = _bound(
        "omni-moderation-latest", Bound("text", "model of a request to /v1/moderations that names none")
    )
    response_sockets: int = _whole(1000, 1, 100_000, "WebSockets of clients at `/v1/responses` that one process has")
    response_sockets_per_account: int = _whole(50, 1, 100_000, "of these at most, of one account")
    response_socket_s: float = _seconds(3600, 1, 86_400, "a WebSocket ends after that, with the answer under way")
    background_poll_s: float = _seconds(2, 0.05, 3600, "time between questions after a background response")
    background_lease_s: float = _seconds(30, 0.5, 3600, "a gateway that has not asked for as long leaves it to others")
    background_expiry_s: float = _seconds(86_400, 1, 31 * 86_400, "after that a background response costs its hold")
    background_jobs: int = _whole(1000, 1, 100_000, "background responses of one process, half of them of one account")
    object_retention_days: int = _whole(365, 1, 36_500, "after that a provider's object is no account's any more")
    job_retention_days: int = _whole(30, 1, 36_500, "rows of background responses that are done are kept as long")
    service_hold_s: int = _whole(3600, 1, 31 * 86_400, "a service's hold lasts as long unless it says")
    service_hold_max_s: int = _whole(86_400, 1, 366 * 86_400, "and at most as long")
    service_holds: int = _whole(10_000, 1, 1_000_000, "open holds of services, in all; a part of `max_unsettled`")
    service_holds_per_account: int = _whole(2500, 1, 1_000_000, "of these at most, of one account")
    service_events_waiting: int = _whole(10_000, 1, 1_000_000, "events of services that wait for Postgres in a process")
    usage_retention_months: int | None = _whole(
        None, 2, 1200, "usage events are kept as long, beside this month's; null: for good; rollups stay"
    )
    default_plan: str = _bound(DEFAULT_PLAN, Bound("text", "plan of a new account; must be in plans.yaml"))
    customers_see: CustomersSee = field(
        default="charge",
        metadata=_choice(get_args(CustomersSee), "what customers see: their charges, or the providers' costs as well"),
    )
    grant_confirm_usd: int = _whole(
        1000, 0, 9_000_000, "commands ask before `operator grant` gives more than so many USD, or a coupon may"
    )
    credits_per_usd: int = _whole(1000, 1, 1_000_000_000, "credits that one USD is shown as")
    lease_s: float = _seconds(5, 0.5, 300, "a gateway that does not renew its lease for as long is dead: its holds end")
    stall_s: float = _seconds(30, 1, 3600, "a worker whose event loop stands still for longer renews its lease no more")
    settle_timeout_ms: int = _whole(500, 10, 60_000, "silence of Redis after which a debit goes straight to Postgres")
    redis_timeout_ms: int = _whole(500, 10, 60_000, "silence of Redis after which an admission is refused")
    redis_partitions: int | None = _whole(None, 1, 1024, "partitions of the accounts; null: 1 embedded, 64 otherwise")
    batch_items: int = _whole(32, 1, 64, "admissions and settlements in one script call")
    ledger_batch_rows: int = _whole(500, 1, 10_000, "debits in one transaction")
    ledger_flush_ms: int = _whole(200, 1, 10_000, "longest wait of a debit for its transaction to begin")
    ledger_lock_ms: int = _whole(
        250, 1, 10_000, "how long debits, or the loading of an account, wait for a row that another session has locked"
    )
    postgres_pool_size: int = _whole(4, 1, 100, "connections to Postgres of one process, for admissions and debits")
    api_pool_size: int = _whole(4, 1, 100, "and beside them, for calls of the billing API")
    postgres_timeout_s: float = _seconds(10, 0.1, 600, "longest statement")
    connect_timeout_s: float = _seconds(5, 0.1, 120, "longest wait for a connection to Redis, Postgres or an upstream")
    principal_cache_entries: int = _whole(100_000, 1, 10_000_000, "keys that one process remembers")
    principal_cache_s: float = _seconds(900, 0, 3600, "how long it believes them without asking again")
    negative_cache_entries: int = _whole(10_000, 0, 10_000_000, "wrong keys that one process remembers")
    negative_cache_s: float = _seconds(5, 0, 300, "how long it believes that they are wrong")
    failed_attempts: int = _whole(20, 1, 1_000_000, "wrong keys of one address in a window before 429")
    failed_attempts_window_s: float = _seconds(60, 1, 86_400, "how long wrong keys of an address count")
    organizations_per_user: int = _whole(20, 1, 10_000, "organizations that one person may own")
    invitations_per_day: int = _whole(100, 1, 100_000, "invitations that an organization makes in 24 hours")
    invitations_per_person: int = _whole(100, 1, 100_000, "invitations that one person mails in 24 hours")
    invitations_per_address: int = _whole(5, 1, 1000, "and that one address is mailed, of all organizations")
    invitation_sends: int = _whole(5, 1, 100, "how often one invitation is sent")
    keys_per_user: int = _whole(100, 1, 100_000, "API keys of one user in one account, made without operators")
    rotation_grace_s: int = _whole(
        604_800, 0, 31_536_000, "longest time that the secret before a key's rotation stays valid"
    )
    signing_key_days: int = _whole(30, 1, 3650, "a key signs tokens for as long; the next one is published before")
    issuer_timeout_s: float = _seconds(5, 0.1, 60, "longest wait for an answer of another issuer of sign-ins")
    issuer_answer_bytes: int = _whole(MIB, 1024, 64 * MIB, "and its largest answer")
    refresh_grace_s: float = _seconds(10, 0, 300, "a used refresh token gives the same successor for as long")
    session_headers: tuple[str, ...] = _bound(
        SESSION_HEADERS,
        Bound(
            "names",
            "headers that name a request's session where `X-Metergate-Session` does not, the first that is there",
            0,
            16,
        ),
    )
    sessions_per_user: int = _whole(100, 1, 10_000, "sessions of one person; those used last stay")
    passwords_at_once: int = _whole(2, 1, 64, "passwords that one process hashes at once, 64 MiB each; then 429")
    sign_ins_at_once: int = _whole(
        64,
        2,
        10_000,
        "people who sign in, register or reset a password at once in a process; a 32nd of one address",
    )
    mails_per_address: int = _whole(5, 1, 1000, "codes that are mailed to one address in an hour")
    mails_per_network: int = _whole(30, 1, 100_000, "and that one address of a client asks for in an hour")
    sign_in_failures: int = _whole(10, 1, 1000, "failed tries at a password or second factor before the next waits")
    sign_in_wait_s: float = _seconds(30, 1, 3600, "how long it waits at first; it doubles with each")
    sign_in_most_wait_s: float = _seconds(3600, 1, 86_400, "and at most")
    unverified_retention_days: int = _whole(
        30, 1, 36_500, "who has not verified an address for as long is forgotten, and it is free again"
    )
    mail_attempts: int = _whole(12, 1, 100, "tries before a mail is given up; pauses double from a minute to an hour")
    mail_timeout_s: float = _seconds(20, 1, 29, "longest time for a connection to SMTP_HOST, and for a mail")
    mail_retention_days: int = _whole(30, 1, 36_500, "rows of mails, without their texts, are kept as long")
    webhook_endpoints: int = _whole(20, 1, 1000, "webhook endpoints of one account")
    webhook_private_addresses: bool = _bound(
        False, Bound("truth", "webhook endpoints may have http and private addresses: those of your own network")
    )
    webhook_attempts: int = _whole(
        12, 1, 100, "tries before a delivery is given up; pauses double from 30 seconds to six hours"
    )
    webhook_timeout_s: float = _seconds(15, 0.1, 25, "longest time for one delivery")
    webhook_disable_s: float = _seconds(
        432_000, 60, 31 * 86_400, "an endpoint to which all deliveries have failed for as long is disabled"
    )
    export_alarm_s: float = _seconds(
        21_600, 60, 31 * 86_400, "an export whose oldest event waits for as long raises an alarm, and degrades /healthz"
    )
    notice_retention_days: int = _whole(30, 3, 36_500, "notices and their deliveries are kept as long")
    refusals_per_key: int = _whole(20, 0, 1000, "last refusals of a key that are kept to be looked up; 0: none")
    refusals_keys: int = _whole(1000, 1, 100_000, "keys whose refusals are kept: those refused last")
    refusals_kept_s: float = _seconds(86_400, 1, 31 * 86_400, "how long they are kept")
    refusals_pending: int = _whole(200, 1, 10_000, "refusals that one process notes in a second; more are dropped")
    request_log_lines: int = _whole(10_000, 1, 1_000_000, "lines that may wait for the request log; more are dropped")
    upstream_connections: int = _whole(1000, 1, 100_000, "connections to one provider of one process")
    upstream_account_share: float = _seconds(0.5, 0.001, 1, "of these, what one account may have; at least one")
    upstream_waiting: int = _whole(1000, 0, 100_000, "requests that may wait for one, for connect_timeout_s")
    upstream_answer_bytes: int = _whole(64 * MIB, 1024, 1024 * MIB, "largest answer that is read whole")
    admission_wait_ms: int = _whole(2000, 0, 60_000, "longest wait for an admission before 503")
    admission_queue_requests: int = _whole(
        256,
        0,
        100_000,
        "requests of one account that may wait in one process for running ones (a plan's admission_queue_s)",
    )

    max_request_depth: int = _whole(256, 16, 500, "levels of a request's JSON")
    max_request_fields: int = _whole(256, 32, 10_000, "fields of a request at its top level")
    max_request_messages: int = _whole(10_000, 1, 1_000_000, "messages, prompts or inputs of a request")
    max_request_parts: int = _whole(10_000, 1, 1_000_000, "parts of a request's messages together")
    max_request_tools: int = _whole(1_000, 1, 100_000, "tools of a request")
    max_request_members: int = _whole(250_000, 1_000, 100_000_000, "objects, arrays and names in a request")
    max_request_values: int = _whole(1_000_000, 1_000, 100_000_000, "values in a request, token ids among them")

    def __post_init__(self) -> None:
        for name, bound in BOUNDS.items():
            if not bound.admits(getattr(self, name)):
                raise ValueError(f"{name} must be {bound.allowed}")


BOUNDS: Final[dict[str, Bound]] = {each.name: each.metadata["bound"] for each in fields(Limits)}
RETIRED: Final = {
    "hold_ttl_s": "is not used any more: a hold lasts for as long as its gateway lives; max_request_s ends the request"
}
"""Keys of older versions, and the note about a file that still has one."""


def read_defaults(main: Value, at: Value | None, plans: Collection[str] | None) -> Limits:
    """Return the defaults that stand at `at`; those that are left out, or wrong, are the shipped ones.

    The plan of new accounts must be one of `plans` (None: they can't be read), whether the file `main` names it or not.
    """
    values = {} if at is None else at.section((*BOUNDS, *RETIRED)).values
    for name in RETIRED.keys() & values.keys():
        main.file.problems.note(values[name].where, f"defaults.{name}", RETIRED[name])
    before = len(main.file.problems)
    given = {name: bound.read(values[name]) for name, bound in BOUNDS.items() if name in values}
    plan = given.get("default_plan") or DEFAULT_PLAN
    if plans is not None and plan not in plans:
        named = values.get("default_plan") or at or main
        message = f'expected a plan of plans.yaml, got "{plan}"{nearest(plan, plans)}'
        main.file.problems.add(named.where, "defaults.default_plan", message)
    if len(main.file.problems) > before:
        return Limits()
    try:
        return Limits(**{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        (at or main).problem(str(error))
        return Limits()
