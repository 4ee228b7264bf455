"""Services: all that the API's handlers work on, made by whoever mounts the API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web
from ulid import ULID

from billing.change_notifier import LiveBalance
from billing.identity.passwords import SignInLimit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from billing.accounts.accounts import Account, Accounts, MemberLimits
    from billing.accounts.grants import Grants, Lots
    from billing.accounts.repricing import Repricing
    from billing.api.attempts import Attempts
    from billing.audit import AuditLog
    from billing.budgets import Budgets
    from billing.change_notifier import ChangeNotifier
    from billing.collect.collector import Collector
    from billing.exports.worker import Exports
    from billing.identity.browsers import Browsers
    from billing.identity.credentials import Credentials
    from billing.identity.oidc import OidcSignIn
    from billing.identity.organizations import Invitations, Members, Organizations
    from billing.identity.sessions import Sessions
    from billing.identity.sign_in import SignIn
    from billing.identity.users import Users
    from billing.keys.keys import ApiKeys
    from billing.ledger.reports import Reports
    from billing.metering.charges import NotAdmitted
    from billing.metering.features import Features
    from billing.metering.metering import Metering, ServiceHolds
    from billing.notices.endpoints import Endpoints
    from billing.payments.assembly import Payments
    from billing.payments.balances import Alerts
    from billing.payments.coupons import Coupons
    from billing.payments.events import PaymentEvents
    from billing.payments.reconcile import PaymentComparisons
    from billing.permissions import CustomersSee
    from billing.plans import Plan, Plans
    from billing.principals import Caller, Principal
    from billing.provider_bills.bills import Bills
    from billing.refused_requests import RefusedRequests
    from billing.schemas.payments import BodyLogShape
    from billing.schemas.quotas import WindowShape
    from billing.schemas.system import JobShape, ModelShape, ProviderShape, ProviderTestShape, TroubleShape
    from billing.scim.service import Scim
    from billing.search import Search
    from billing.traffic.store import Traffic


async def _nobody(token: str, org_id: str | None) -> Caller | None:
    return None


async def _no_windows(account_id: str) -> list[WindowShape]:
    return []


async def _no_providers() -> list[ProviderShape]:
    return []


async def _no_test(
    provider: str, model: str | None, target: int, sending: Callable[[str], Awaitable[None]]
) -> ProviderTestShape | None:
    return None


async def _no_job() -> JobShape | None:
    return None


def _no_models(plan: Plan | None) -> list[ModelShape]:
    return []


def _new_id() -> str:
    return str(ULID())


@dataclass(frozen=True, slots=True)
class Meters:
    """What services call. `refusal` is what a request is answered with that an account has no room for."""

    metering: Metering
    holds: ServiceHolds
    refusal: Callable[[NotAdmitted, web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class PaymentOversight:
    """What operators see of payments: the provider's events, and the comparison with the provider."""

    events: PaymentEvents
    comparisons: PaymentComparisons


@dataclass(frozen=True, slots=True)
class Services:
    """`authenticate` gives the principal of an API key's secret, None for one that is unknown; `known` says whether a
    secret is known to be a key or known to be none, and None where it has to be looked up; `clock` Unix seconds;
    `unknown_models` which of some names, or prefixes with a `*`, lead to no model here; `providers` who answers, and
    how well; `test_provider` how one answers a small request to a model (None: the cheapest) at a target's number, None
    where there is no such provider; `models` those that have a price, as each is routed, at what a plan's accounts pay
    (None: at the providers' prices).

    `person` gives whose token this is, in the organization of this id or else the token's own; None for a token that is
    wrong, expired or revoked. Without `admin_api_key` every admin call is refused, without `service_api_key` every
    service's, without `meters` nothing is metered for them, and without `payments` nothing is sold. A user makes at
    most `keys_per_user` keys in an account; a key's secret stays valid for at most `rotation_grace_s` after a rotation.
    Customers see charges alone, or also the providers' costs, as `customers_see` says; commands ask before a grant
    above `grant_confirm_usd`. Without `sends_mail`, answers say that no mail comes. `new_id` makes ids of requests.
    `windows` gives what is left of an account's quotas, `upgrade_url` where a plan is bought; `setup_url` is where
    credit is bought, None where nothing is sold, `operator_url` where whoever runs the gateway is asked, None where no
    page is named, and `keys_url` where keys are made. `body_logs` says what is kept of an account's bodies. `image` is
    the container image's name, for /api/ping.
    """

    accounts: Accounts
    users: Users
    member_limits: MemberLimits
    organizations: Organizations
    members: Members
    invitations: Invitations
    scim: Scim
    keys: ApiKeys
    grants: Grants
    lots: Lots
    coupons: Coupons
    alerts: Alerts
    budgets: Budgets
    repricing: Repricing
    reports: Reports
    traffic: Traffic
    search: Search
    audit: AuditLog
    exports: Exports
    endpoints: Endpoints
    features: Features
    sign_in: SignIn
    credentials: Credentials
    refused: RefusedRequests
    effects: ChangeNotifier
    plans: Plans
    credits_per_usd: int
    authenticate: Callable[[str], Awaitable[Principal | None]]
    known: Callable[[str], bool | None]
    attempts: Attempts
    clock: Callable[[], float]
    admin_api_key: str | None = field(repr=False)
    default_plan: str
    sessions: Sessions
    browsers: Browsers
    person: Callable[[str, str | None], Awaitable[Caller | None]] = _nobody
    service_api_key: str | None = field(default=None, repr=False)
    meters: Meters | None = None
    oidc: OidcSignIn | None = None
    payments: Payments | None = None
    windows: Callable[[str], Awaitable[list[WindowShape]]] = _no_windows
    upgrade_url: Callable[[Plan], str | None] = lambda plan: None
    setup_url: str | None = None
    operator_url: str | None = None
    keys_url: str | None = None
    body_logs: Callable[[str], BodyLogShape | None] = lambda account_id: None
    payment_oversight: PaymentOversight | None = None
    bills: Bills | None = None
    collector: Collector | None = None
    unknown_models: Callable[[Iterable[str]], list[str]] = lambda names: []
    providers: Callable[[], Awaitable[list[ProviderShape]]] = _no_providers
    test_provider: Callable[
        [str, str | None, int, Callable[[str], Awaitable[None]]], Awaitable[ProviderTestShape | None]
    ] = _no_test
    models: Callable[[Plan | None], list[ModelShape]] = _no_models
    troubles: Callable[[], list[TroubleShape]] = list
    job: Callable[[], Awaitable[JobShape | None]] = _no_job
    keys_per_user: int = 100
    rotation_grace_s: int = 7 * 24 * 3600
    new_id: Callable[[], str] = _new_id
    image: str = ""
    max_body_bytes: int = 1024 * 1024
    request_timeout_s: float = 30.0
    customers_see: CustomersSee = "charge"
    sends_mail: bool = True
    sign_in_limit: SignInLimit = field(default_factory=SignInLimit)
    grant_confirm_usd: int = 1000

    def __post_init__(self) -> None:
        if self.credits_per_usd <= 0 or self.max_body_bytes <= 0 or self.request_timeout_s <= 0:
            raise ValueError("credits_per_usd, max_body_bytes and request_timeout_s must be above zero")

    async def live_balance(self, account: Account) -> LiveBalance:
        """Return what an account has and holds, as Redis has it, else as the ledger does."""
        return await self.effects.live_balance(account.id) or LiveBalance(account.balance_nano, held_nano=0)


SERVICES = web.AppKey("billing_services", Services)
