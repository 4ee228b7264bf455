"""Sections of the configuration that billing's parts take: fields with their bounds, defaults and help, units last in
their names. A leaf: whoever reads a configuration imports no part."""

from typing import Annotated, Final, Literal, get_args

from msgspec import Meta, Struct, structs

Unknown = Literal["create", "park"]
FirstPoint = Literal["new", "baseline", "zero"]
DAY_S: Final = 86_400
MIB: Final = 1024 * 1024
# Of a field that follows from others, and is no key of the section.
DERIVED: Final = Meta(extra={"derived": True})


# An amount of a setting: a decimal of USD, which may stand without quotes.
USD: Final = Meta(
    pattern=r"^\d{1,4}(\.\d{1,9})?\Z",
    extra={"what": 'an amount in USD such as "5.00"', "bare": True, "allowed": "0 to 9999.999999999"},
)


def about(text: str) -> Meta:
    """Say what a setting is."""
    return Meta(description=text)


def within(low: float, high: float, text: str) -> Meta:
    """Bound a number, and say what it is."""
    return Meta(ge=low, le=high, description=text)


def check_bounds(settings: Struct) -> None:
    """Raise `ValueError` where a number is out of its bounds."""
    for each in structs.fields(settings):
        _, meta = get_args(each.type)
        if not meta.ge <= getattr(settings, each.name) <= meta.le:
            raise ValueError(f"{each.name} must be from {meta.ge:g} to {meta.le:g}")


class OrganizationSettings(Struct, frozen=True):
    """Whether people begin with an organization, how many one may own, and how many invitations are made and mailed."""

    personal_organizations: Annotated[
        bool, about("who registers gets an organization of their own; else they found one, or are invited")
    ] = True
    welcome_credit_usd: Annotated[
        str, USD, about("promotional credit that a person is given once, when their address is proven")
    ] = "0"
    organizations_per_user: Annotated[int, within(1, 10_000, "organizations that one person may own")] = 20
    invitations_per_day: Annotated[int, within(1, 100_000, "invitations that an organization makes in 24 hours")] = 100
    invitations_per_person: Annotated[int, within(1, 100_000, "invitations that one person mails in 24 hours")] = 100
    invitations_per_address: Annotated[int, within(1, 1000, "and that one address is mailed, of all organizations")] = 5
    invitation_sends: Annotated[int, within(1, 100, "how often one invitation is sent")] = 5


class ScimSettings(Struct, frozen=True):
    """Directories of organizations that call SCIM."""

    scim_users: Annotated[int, within(1, 1_000_000, "people that one organization's directory may have here")] = 10_000
    scim_groups: Annotated[int, within(1, 100_000, "and groups")] = 1000
    scim_memberships: Annotated[
        int, within(1, 10_000_000, "and members that its groups have together, each counted in every group")
    ] = 200_000
    scim_tokens: Annotated[int, within(1, 100, "tokens of SCIM that one organization may have")] = 5
    scim_page: Annotated[int, within(1, 1000, "people or groups of one answer")] = 100
    scim_body_bytes: Annotated[int, within(1024, 64 * MIB, "largest body of a call of SCIM")] = MIB
    scim_requests_per_s: Annotated[
        float, within(0.1, 10_000, "calls of one organization's directory in a process; ten seconds of them at once")
    ] = 25
    scim_at_once: Annotated[int, within(1, 100, "calls of one organization that run at once in a process")] = 2
    scim_waiting: Annotated[int, within(0, 10_000, "and that wait for these")] = 50


class CodeSettings(Struct, frozen=True):
    """Codes that are mailed, and failed tries at a password or a second factor."""

    mails_per_address: Annotated[int, within(1, 1000, "codes that are mailed to one address in an hour")] = 5
    mails_per_network: Annotated[int, within(1, 100_000, "and that one address of a client asks for in an hour")] = 30
    sign_in_failures: Annotated[
        int, within(1, 1000, "failed tries at a password or second factor before the next waits")
    ] = 10
    sign_in_wait_s: Annotated[float, within(1, 3600, "how long it waits at first; it doubles with each")] = 30
    sign_in_most_wait_s: Annotated[float, within(1, 86_400, "and at most")] = 3600


class MailSettings(Struct, frozen=True):
    """Delivery of mails."""

    mail_attempts: Annotated[
        int, within(1, 100, "tries before a mail is given up; pauses double from a minute to an hour")
    ] = 12
    mail_timeout_s: Annotated[float, within(1, 29, "longest time for a connection to SMTP_HOST, and for a mail")] = 20
    mail_retention_days: Annotated[int, within(1, 36_500, "rows of mails, without their texts, are kept as long")] = 30


class WebhookSettings(Struct, frozen=True):
    """Webhook endpoints and deliveries to them."""

    webhook_endpoints: Annotated[int, within(1, 1000, "webhook endpoints of one account")] = 20
    webhook_private_addresses: Annotated[
        bool, about("webhook endpoints may have http and private addresses: those of your own network")
    ] = False
    webhook_attempts: Annotated[
        int, within(1, 100, "tries before a delivery is given up; pauses double from 30 seconds to six hours")
    ] = 12
    webhook_timeout_s: Annotated[float, within(0.1, 25, "longest time for one delivery")] = 15
    webhook_disable_s: Annotated[
        float, within(60, 31 * DAY_S, "an endpoint to which all deliveries have failed for as long is disabled")
    ] = 432_000
    notice_retention_days: Annotated[int, within(3, 36_500, "notices and their deliveries are kept as long")] = 30


class ServiceSettings(Struct, frozen=True):
    """Holds and events of other services. `grace_s` is how long an account that is past due may still spend."""

    service_hold_s: Annotated[int, within(1, 31 * DAY_S, "a service's hold lasts as long unless it says")] = 3600
    service_hold_max_s: Annotated[int, within(1, 366 * DAY_S, "and at most as long")] = 86_400
    service_holds: Annotated[int, within(1, 1_000_000, "open holds of services, in all; a part of `max_unsettled`")] = (
        10_000
    )
    service_holds_per_account: Annotated[int, within(1, 1_000_000, "of these at most, of one account")] = 2500
    service_events_waiting: Annotated[
        int, within(1, 1_000_000, "events of services that wait for Postgres in a process")
    ] = 10_000
    credits_per_usd: Annotated[int, within(1, 1_000_000_000, "credits that one USD is shown as")] = 1000
    grace_s: Annotated[int, DERIVED] = 0


class RefusalSettings(Struct, frozen=True):
    """Refused requests that are kept to be looked up."""

    refusals_per_key: Annotated[
        int, within(0, 1000, "last refusals of a key that are kept to be looked up; 0: none")
    ] = 20
    refusals_keys: Annotated[int, within(1, 100_000, "keys whose refusals are kept: those refused last")] = 1000
    refusals_kept_s: Annotated[float, within(1, 31 * DAY_S, "how long they are kept")] = 86_400
    refusals_pending: Annotated[
        int, within(1, 10_000, "refusals that one process notes in a second; more are dropped")
    ] = 200


class RetentionSettings(Struct, frozen=True):
    """How long rows are kept."""

    unverified_retention_days: Annotated[
        int, within(1, 36_500, "who has not verified an address for as long is forgotten, and it is free again")
    ] = 30
    object_retention_days: Annotated[
        int, within(1, 36_500, "after that a provider's object is no account's any more")
    ] = 365
    job_retention_days: Annotated[
        int, within(1, 36_500, "rows of background responses that are done are kept as long")
    ] = 30
    traffic_retention_days: Annotated[
        int, within(2, 36_500, "counts of refusals and of providers' answers by hour are kept as long")
    ] = 400
    usage_retention_months: (
        Annotated[
            int, within(2, 1200, "usage events are kept as long, beside this month's; null: for good; rollups stay")
        ]
        | None
    ) = None


class CollectSettings(Struct, frozen=True):
    """Collecting traffic from exporters."""

    unknown_subjects: Annotated[Unknown, about("what becomes of traffic of somebody who has no account")] = "create"
    first_point: Annotated[
        FirstPoint,
        about(
            "what the first value of a counter is: all new traffic where an earlier snapshot of the node lacks it, "
            "nothing, or all new traffic"
        ),
    ] = "new"
    collect_at_once: Annotated[int, within(1, 100, "exporters that are read at the same time")] = 4
    collect_pages: Annotated[
        int, within(1, 100_000, "pages of one exporter that one run reads; the next run goes on")
    ] = 500
    collect_snapshots: Annotated[
        int, within(1, 100_000, "snapshots that an exporter is asked for at once (`limit`)")
    ] = 100
    collect_answer_bytes: Annotated[int, within(1024, 256 * MIB, "largest page of an exporter")] = 16 * MIB
    collect_overlap_s: Annotated[
        float, within(0, 86_400, "a window begins so long before the last snapshot, for those that come late")
    ] = 300
    collect_keep_days: Annotated[
        int, within(37, 3650, "days that what counters said is kept; sums by hour stay for good")
    ] = 37
