"""Every operation of the billing API, by resource: the whole API on one page.

From these follow the server, the methods of the client library, the OpenAPI document and the permission matrix; an
attribute is called as the client's method is. `billing.api.operation` says what a declaration means, and who may call
where neither `who` nor `scope` is said: the operator alone.
"""

from types import NoneType
from typing import Final

from billing.api.operation import Access, OfOne, OfTwo, Operation, operation
from billing.permissions import (
    AUDIT_READ,
    BILLING_READ,
    BILLING_SETUP,
    KEYS_READ,
    KEYS_WRITE,
    MEMBERS_READ,
    MEMBERS_WRITE,
    ORG_READ,
    ORG_TRANSFER,
    ORG_WRITE,
)
from billing.schemas.accounts import (
    AccountPatch,
    AccountShape,
    AccountsQuery,
    GrantShape,
    NewAccount,
    NewAdjustment,
    NewCredit,
    NewGrant,
    NewQuotas,
    NewRepricing,
    RepricingShape,
    UserQuotasShape,
)
from billing.schemas.base import Listing, PageQuery
from billing.schemas.credit import (
    AlertBody,
    AlertShape,
    BudgetPatch,
    CouponCodeBody,
    CouponShape,
    LotShape,
    LotsQuery,
    NewBudget,
    NewCouponBody,
    NewCouponShape,
    OwnBudgetShape,
    RechargeBody,
    RechargeShape,
    RedeemedShape,
)
from billing.schemas.directories import (
    DirectoryShape,
    Domains,
    DomainsShape,
    NewScimToken,
    NewScimTokenShape,
    RulesOfGroups,
    RulesOfGroupsShape,
    ScimTokenShape,
)
from billing.schemas.keys import (
    KeyPatch,
    KeyShape,
    KeysQuery,
    LeakedKey,
    LeakedShape,
    NewKey,
    NewKeyShape,
    NewOwnKey,
    OwnKeysQuery,
    RotatedKeyShape,
    Rotation,
)
from billing.schemas.margin import BillBody, BillQuery, BillShape, MarginQuery, MarginsShape
from billing.schemas.payments import (
    AdminOrderShape,
    AdminOrdersQuery,
    ChargeShape,
    ChargesQuery,
    ComparisonShape,
    CreditParked,
    DismissParked,
    FeatureShape,
    FeaturesShape,
    InvoiceShape,
    NewCheckout,
    NewComparison,
    NewFeatureUse,
    NewOrderRefund,
    NewPortal,
    NewSetup,
    OrderRefundShape,
    OrderShape,
    OrdersQuery,
    PageShape,
    PaidSubscriptionShape,
    PaidSubscriptionsQuery,
    ParkedQuery,
    ParkedShape,
    PaymentEventShape,
    PaymentEventsQuery,
    PlanChange,
    PlanPreviewShape,
    PlanPricesShape,
    PlansShape,
    ReceiptShape,
    ReceivedShape,
    ReturnShape,
    ReturnsQuery,
    RevenueQuery,
    RevenueShape,
    StatusShape,
    SubscriptionShape,
)
from billing.schemas.people import (
    AccessTokenShape,
    BeginQuery,
    Closing,
    CodeAsked,
    FactorBody,
    InvitationShape,
    Login,
    LoginLinkShape,
    MailSent,
    MemberShape,
    NarrowBody,
    NewAddress,
    NewAddressCode,
    NewInvitation,
    NewOrganization,
    OneToRevoke,
    OrganizationPatch,
    OrganizationShape,
    PasswordChange,
    PasswordChanged,
    PasswordForgotten,
    PasswordReset,
    PasswordShown,
    ProfilePatch,
    ProfileShape,
    RecoveryCodes,
    RefreshBody,
    Registration,
    RevokeAllBody,
    RevokedShape,
    RolePatch,
    RolesShape,
    SeenInvitationShape,
    SessionShape,
    SignInUrl,
    TokenPairShape,
    TotpConfirmation,
    TotpEnrolment,
    TotpRemoval,
    Transfer,
    UserDetailShape,
    UserPatch,
    UserShape,
    UsersQuery,
    Verification,
)
from billing.schemas.service import (
    AskedOfKey,
    CheckShape,
    CloudEvent,
    DebitShape,
    Giving,
    HoldShape,
    KeyAsked,
    KeyCheckShape,
    NewDebit,
    NewHold,
    Settlement,
    UsageEvents,
    UsageResults,
)
from billing.schemas.system import (
    AssignBody,
    AssignedShape,
    AuditQuery,
    AuditShape,
    ExportShape,
    FoundShape,
    GatewayHealthShape,
    HelloShape,
    ImageShape,
    NamesQuery,
    NamesShape,
    NewProviderTest,
    OperatorSettingsShape,
    OwnAuditQuery,
    OwnRefusedQuery,
    ParkedExportShape,
    ParkedExportsQuery,
    ProviderShape,
    ProviderTestShape,
    RefusedQuery,
    RefusedShape,
    RetriedShape,
    RetryExport,
    RunShape,
    SearchQuery,
    SubjectShape,
    SubjectsQuery,
)
from billing.schemas.traffic import (
    CircuitChangeShape,
    DryAccountShape,
    ProvidersQuery,
    TrafficQuery,
    TrafficShape,
)
from billing.schemas.usage import (
    AllEventsQuery,
    BalanceShape,
    BillingSummaryShape,
    BucketsQuery,
    BucketsShape,
    EventQuery,
    EventShape,
    ExplainedEventShape,
    SummaryQuery,
    SummaryShape,
    TotalsQuery,
    TotalsShape,
    TransactionShape,
    TransactionsQuery,
)
from billing.schemas.webhooks import DeliveryShape, EndpointPatch, EndpointShape, NewEndpoint, NewEndpointShape

ANYONE: Final = Access.anyone
PERSON: Final = Access.person
SERVICE: Final = Access.service
OF_ACCOUNT: Final = {"of": "account", "also": "Of any account."}
OF_OPERATORS: Final = {"of": "operators", "also": "Of the operators' own, which get all notices."}

_ACCOUNT: Final = OfOne("/api/admin/accounts/{account_id}")
_KEY: Final = OfOne("/api/admin/keys/{key_id}")
_OWN_KEY: Final = OfOne("/api/billing/keys/{key_id}")
_ORG: Final = OfOne("/api/orgs/{org_id}")
_MEMBER: Final = OfTwo("/api/orgs/{org_id}/members/{user_id}")
_BUDGET: Final = OfOne("/api/billing/budgets/{budget_id}")
_OF_ACCOUNT: Final = _ACCOUNT / "budgets"
_BUDGET_OF_ACCOUNT: Final = OfTwo("/api/admin/accounts/{account_id}/budgets/{budget_id}")
_ENDPOINT: Final = OfOne("/api/webhooks/endpoints/{endpoint_id}")
_OF_OPERATORS: Final = OfOne("/api/admin/webhooks/endpoints/{endpoint_id}")


class AccountOperations:
    """Accounts, their quotas and those of their users, grants, refunds and adjustments."""

    create_account = operation("POST", "/api/admin/accounts", AccountShape, NewAccount, status=201)
    accounts = operation("GET", "/api/admin/accounts", Listing[AccountShape], AccountsQuery)
    account = operation("GET", _ACCOUNT, AccountShape)
    update_account = operation("PATCH", _ACCOUNT, AccountShape, AccountPatch, errors=(409, 503))
    set_account_quotas = operation("PUT", _ACCOUNT / "quotas", AccountShape, NewQuotas)
    users_quotas = operation("GET", _ACCOUNT / "users/quotas", Listing[UserQuotasShape], PageQuery)
    user_quotas = operation("GET", OfTwo("/api/admin/accounts/{account_id}/users/{user_id}/quotas"), UserQuotasShape)
    set_user_quotas = operation(
        "PUT", OfTwo("/api/admin/accounts/{account_id}/users/{user_id}/quotas"), UserQuotasShape, NewQuotas
    )
    grant = operation("POST", _ACCOUNT / "grants", GrantShape, NewCredit, status=201, errors=(409,))
    refund = operation("POST", _ACCOUNT / "refunds", GrantShape, NewGrant, status=201, errors=(409,))
    adjust = operation(
        "POST",
        _ACCOUNT / "adjustments",
        GrantShape,
        NewAdjustment,
        status=201,
        errors=(409,),
    )
    reprice = operation("POST", "/api/admin/reprice", RepricingShape, NewRepricing, query=PageQuery, errors=(404,))
    close_organization = operation(
        "POST",
        _ORG / "close",
        OrganizationShape,
        Closing,
        who=PERSON,
        scope=ORG_TRANSFER,
        whole=True,
        optional=True,
        errors=(409,),
    )


class KeyOperations:
    """API keys of any account."""

    create_key = operation("POST", "/api/admin/keys", NewKeyShape, NewKey, status=201, errors=(404,))
    keys = operation("GET", "/api/admin/keys", Listing[KeyShape], KeysQuery)
    key = operation("GET", _KEY, KeyShape)
    update_key = operation("PATCH", _KEY, KeyShape, KeyPatch)
    revoke_key = operation("DELETE", _KEY, NoneType)
    rotate_key = operation("POST", _KEY / "rotate", RotatedKeyShape, Rotation, optional=True, errors=(409,))


class OrganizationOperations:
    """Organizations, who belongs to them, invitations, and the table of roles."""

    roles = operation("GET", "/api/roles", RolesShape, who=ANYONE)
    organizations = operation("GET", "/api/orgs", Listing[OrganizationShape], PageQuery, who=PERSON)
    create_organization = operation(
        "POST", "/api/orgs", OrganizationShape, NewOrganization, who=PERSON, status=201, errors=(409,)
    )
    organization = operation("GET", _ORG, OrganizationShape, scope=ORG_READ)
    update_organization = operation(
        "PATCH",
        _ORG,
        OrganizationShape,
        OrganizationPatch,
        who=PERSON,
        scope=ORG_WRITE,
        errors=(409,),
    )
    transfer_ownership = operation(
        "POST",
        _ORG / "transfer-ownership",
        OrganizationShape,
        Transfer,
        who=PERSON,
        scope=ORG_TRANSFER,
        errors=(409,),
    )
    members = operation("GET", _ORG / "members", Listing[MemberShape], PageQuery, scope=MEMBERS_READ)
    member = operation("GET", _MEMBER, MemberShape, scope=MEMBERS_READ)
    set_role = operation(
        "PATCH",
        _MEMBER,
        MemberShape,
        RolePatch,
        who=PERSON,
        scope=MEMBERS_WRITE,
        errors=(409,),
    )
    remove_member = operation("DELETE", _MEMBER, NoneType, who=PERSON, scope=MEMBERS_READ, errors=(409,))
    member_quotas = operation("GET", _MEMBER / "quotas", UserQuotasShape, scope=MEMBERS_READ)
    set_member_quotas = operation(
        "PUT",
        _MEMBER / "quotas",
        UserQuotasShape,
        NewQuotas,
        who=PERSON,
        scope=MEMBERS_WRITE,
    )
    invitations = operation("GET", _ORG / "invitations", Listing[InvitationShape], PageQuery, scope=MEMBERS_READ)
    invite = operation(
        "POST",
        _ORG / "invitations",
        InvitationShape,
        NewInvitation,
        who=PERSON,
        scope=MEMBERS_WRITE,
        status=201,
        errors=(409,),
    )
    revoke_invitation = operation(
        "DELETE", OfTwo("/api/orgs/{org_id}/invitations/{invitation_id}"), NoneType, who=PERSON, scope=MEMBERS_WRITE
    )
    resend_invitation = operation(
        "POST",
        OfTwo("/api/orgs/{org_id}/invitations/{invitation_id}/resend"),
        InvitationShape,
        who=PERSON,
        scope=MEMBERS_WRITE,
        errors=(409,),
    )
    seen_invitation = operation("GET", OfOne("/api/invitations/{token}"), SeenInvitationShape, who=ANYONE)
    accept_invitation = operation(
        "POST", OfOne("/api/invitations/{token}/accept"), OrganizationShape, who=PERSON, errors=(409,)
    )


class DirectoryOperations:
    """What an organization's directory makes of its people: rules for groups, tokens of SCIM; and its domains."""

    group_rules = operation("GET", _ORG / "group-rules", RulesOfGroupsShape, scope=MEMBERS_READ)
    set_group_rules = operation(
        "PUT",
        _ORG / "group-rules",
        RulesOfGroupsShape,
        RulesOfGroups,
        who=PERSON,
        scope=ORG_TRANSFER,
        whole=True,
    )
    directory = operation("GET", _ORG / "scim", DirectoryShape, scope=MEMBERS_READ)
    scim_tokens = operation("GET", _ORG / "scim/tokens", Listing[ScimTokenShape], PageQuery, scope=MEMBERS_READ)
    create_scim_token = operation(
        "POST",
        _ORG / "scim/tokens",
        NewScimTokenShape,
        NewScimToken,
        who=PERSON,
        scope=ORG_TRANSFER,
        whole=True,
        status=201,
        errors=(409,),
    )
    revoke_scim_token = operation(
        "DELETE",
        OfTwo("/api/orgs/{org_id}/scim/tokens/{token_id}"),
        NoneType,
        who=PERSON,
        scope=ORG_TRANSFER,
    )
    organization_domains = operation("GET", OfOne("/api/admin/orgs/{org_id}/domains"), DomainsShape)
    set_organization_domains = operation(
        "PUT", OfOne("/api/admin/orgs/{org_id}/domains"), DomainsShape, Domains, errors=(409,)
    )


class OwnKeyOperations:
    """API keys of the caller's own account."""

    create_own_key = operation(
        "POST", "/api/billing/keys", NewKeyShape, NewOwnKey, scope=KEYS_WRITE, status=201, errors=(404, 409)
    )
    own_keys = operation("GET", "/api/billing/keys", Listing[KeyShape], OwnKeysQuery, scope=KEYS_READ)
    revoke_leaked_key = operation(
        "POST", "/api/billing/keys/revoke-leaked", LeakedShape, LeakedKey, who=ANYONE, errors=(429, 500, 503)
    )
    own_key = operation("GET", _OWN_KEY, KeyShape, scope=KEYS_READ)
    update_own_key = operation("PATCH", _OWN_KEY, KeyShape, KeyPatch, scope=KEYS_WRITE)
    revoke_own_key = operation("DELETE", _OWN_KEY, NoneType, scope=KEYS_WRITE)
    rotate_own_key = operation(
        "POST",
        _OWN_KEY / "rotate",
        RotatedKeyShape,
        Rotation,
        scope=KEYS_WRITE,
        optional=True,
        errors=(409,),
    )
    own_key_usage = operation("GET", _OWN_KEY / "usage", TotalsShape, scope=BILLING_READ)


class CreditOperations:
    """Lots of credit, coupons, auto-recharge, and when an account is told that its balance is low."""

    lots = operation("GET", "/api/billing/lots", Listing[LotShape], LotsQuery, scope=BILLING_READ)
    account_lots = operation(
        "GET",
        _ACCOUNT / "lots",
        Listing[LotShape],
        LotsQuery,
        name="list_account_lots",
        summary="List the lots of an account's credit, newest first, with what is left of each.",
    )
    redeem_coupon = operation(
        "POST",
        "/api/billing/coupons/redeem",
        RedeemedShape,
        CouponCodeBody,
        scope=BILLING_SETUP,
        errors=(404, 409, 429),
    )
    auto_recharge = operation("GET", "/api/billing/auto-recharge", RechargeShape, scope=BILLING_READ)
    set_auto_recharge = operation(
        "PUT", "/api/billing/auto-recharge", RechargeShape, RechargeBody, scope=BILLING_SETUP, errors=(404,)
    )
    alert = operation("GET", "/api/billing/alerts", AlertShape, scope=BILLING_READ)
    set_alert = operation("PUT", "/api/billing/alerts", AlertShape, AlertBody, scope=BILLING_SETUP)
    create_coupon = operation("POST", "/api/admin/coupons", NewCouponShape, NewCouponBody, status=201, errors=(409,))
    coupons = operation("GET", "/api/admin/coupons", Listing[CouponShape], PageQuery)
    disable_coupon = operation("DELETE", OfOne("/api/admin/coupons/{coupon_id}"), NoneType)


class BudgetOperations:
    """Budgets: one's own, and by operators those of any account."""

    create_budget = operation(
        "POST", "/api/billing/budgets", OwnBudgetShape, NewBudget, scope=BILLING_SETUP, status=201
    )
    create_budget_of_account = operation("POST", _OF_ACCOUNT, OwnBudgetShape, NewBudget, status=201, **OF_ACCOUNT)
    budgets = operation("GET", "/api/billing/budgets", Listing[OwnBudgetShape], PageQuery, scope=BILLING_READ)
    budgets_of_account = operation("GET", _OF_ACCOUNT, Listing[OwnBudgetShape], PageQuery, **OF_ACCOUNT)
    budget = operation("GET", _BUDGET, OwnBudgetShape, scope=BILLING_READ)
    budget_of_account = operation("GET", _BUDGET_OF_ACCOUNT, OwnBudgetShape, **OF_ACCOUNT)
    update_budget = operation("PATCH", _BUDGET, OwnBudgetShape, BudgetPatch, scope=BILLING_SETUP)
    update_budget_of_account = operation("PATCH", _BUDGET_OF_ACCOUNT, OwnBudgetShape, BudgetPatch, **OF_ACCOUNT)
    delete_budget = operation("DELETE", _BUDGET, NoneType, scope=BILLING_SETUP)
    delete_budget_of_account = operation("DELETE", _BUDGET_OF_ACCOUNT, NoneType, **OF_ACCOUNT)


class UsageOperations:
    """What customers read of their account: balance, transactions, usage events; and operators of all."""

    all_usage_events = operation("GET", "/api/admin/usage/events", Listing[EventShape], AllEventsQuery, csv=True)

    balance = operation("GET", "/api/account/balance", BalanceShape, scope=BILLING_READ)
    transactions = operation(
        "GET", "/api/account/transactions", Listing[TransactionShape], TransactionsQuery, scope=BILLING_READ, csv=True
    )
    usage_events = operation(
        "GET", "/api/account/usage/events", Listing[EventShape], EventQuery, scope=BILLING_READ, csv=True
    )
    usage_event = operation(
        "GET", OfOne("/api/account/usage/events/{event_id}"), ExplainedEventShape, scope=BILLING_READ
    )


class ReportOperations:
    """What was used, in sums."""

    usage = operation("GET", "/api/billing/usage", TotalsShape, TotalsQuery, scope=BILLING_READ)
    usage_summary = operation(
        "GET", "/api/account/usage/summary", SummaryShape, SummaryQuery, scope=BILLING_READ, csv=True
    )
    usage_buckets = operation(
        "GET", "/api/account/usage/buckets", BucketsShape, BucketsQuery, scope=BILLING_READ, csv=True
    )
    billing_summary = operation("GET", "/api/account/billing/summary", BillingSummaryShape, scope=BILLING_READ)


class ExportOperations:
    """Usage on its way to other systems."""

    exports = operation("GET", "/api/admin/exports", Listing[ExportShape])
    parked_exports = operation("GET", "/api/admin/exports/parked", Listing[ParkedExportShape], ParkedExportsQuery)
    retry_exports = operation("POST", "/api/admin/exports/retry", RetriedShape, RetryExport, errors=(404,))


class OversightOperations:
    """What operators watch: refusals, providers, people, the audit log, and what is collected from exporters."""

    collect_runs = operation("GET", "/api/admin/jobs/runs", Listing[RunShape], PageQuery)
    collect_subjects = operation("GET", "/api/admin/exporters/subjects", Listing[SubjectShape], SubjectsQuery)
    assign_subject = operation("POST", "/api/admin/exporters/subjects/assign", AssignedShape, AssignBody, errors=(404,))
    refusals = operation("GET", "/api/admin/refusals", Listing[RefusedShape], RefusedQuery)
    refusal = operation("GET", OfOne("/api/admin/refusals/{request_id}"), RefusedShape)
    own_refusals = operation(
        "GET", "/api/account/usage/refusals", Listing[RefusedShape], OwnRefusedQuery, scope=BILLING_READ
    )
    own_refusal = operation("GET", OfOne("/api/account/usage/refusals/{request_id}"), RefusedShape, scope=BILLING_READ)
    operator_settings = operation("GET", "/api/admin/settings", OperatorSettingsShape)
    providers = operation("GET", "/api/admin/providers", Listing[ProviderShape], ProvidersQuery)
    circuit_changes = operation(
        "GET", OfOne("/api/admin/providers/{provider}/circuits"), Listing[CircuitChangeShape], errors=(404,)
    )
    test_provider = operation(
        "POST",
        OfOne("/api/admin/providers/{provider}/test"),
        ProviderTestShape,
        NewProviderTest,
        optional=True,
        errors=(404, 409, 503),
    )
    traffic = operation("GET", "/api/admin/traffic", TrafficShape, TrafficQuery)
    health = operation("GET", "/api/admin/health", GatewayHealthShape)
    search = operation("GET", "/api/admin/search", Listing[FoundShape], SearchQuery)
    names = operation("GET", "/api/admin/names", NamesShape, NamesQuery)
    dry_accounts = operation("GET", "/api/admin/dry-accounts", Listing[DryAccountShape])
    ping = operation("GET", "/api/ping", ImageShape, who=ANYONE)
    hello = operation("GET", "/api/hello", HelloShape, who=ANYONE)
    audit = operation("GET", "/api/admin/audit", Listing[AuditShape], AuditQuery)
    own_audit = operation("GET", "/api/account/audit", Listing[AuditShape], OwnAuditQuery, scope=AUDIT_READ)
    users = operation("GET", "/api/admin/users", Listing[UserShape], UsersQuery)
    user = operation("GET", OfOne("/api/admin/users/{user_id}"), UserDetailShape)
    update_user = operation("PATCH", OfOne("/api/admin/users/{user_id}"), UserDetailShape, UserPatch)
    appoint_owner = operation("PUT", OfTwo("/api/admin/orgs/{org_id}/owners/{user_id}"), MemberShape, errors=(404, 409))


class MarginOperations:
    """Charges less costs, and the bills of providers."""

    margin = operation("GET", "/api/admin/margin", MarginsShape, MarginQuery, csv=True)
    bill = operation("GET", OfOne("/api/admin/providers/{provider}/bill"), BillShape, BillQuery, errors=(404,))
    reconcile_bill = operation(
        "POST", OfOne("/api/admin/providers/{provider}/bill"), BillShape, BillBody, errors=(404, 503)
    )


class ServiceOperations:
    """What other services meter, behind the service key."""

    account_balance = operation("GET", OfOne("/api/service/accounts/{account_id}/balance"), BalanceShape, who=SERVICE)
    check = operation("POST", "/api/service/check", CheckShape, AskedOfKey, who=SERVICE, errors=(400, 402, 404))
    debit = operation(
        "POST", "/api/service/debits", DebitShape, NewDebit, who=SERVICE, status=201, errors=(400, 402, 404, 409)
    )
    record = operation(
        "POST",
        "/api/service/usage",
        UsageResults,
        who=SERVICE,
        errors=(400, 404, 409, 413),
        accepts=(
            ("application/json", UsageEvents),
            ("application/cloudevents+json", CloudEvent),
            ("application/cloudevents-batch+json", list[CloudEvent]),
        ),
    )
    check_key = operation("POST", "/api/service/keys/check", KeyCheckShape, KeyAsked, who=SERVICE)
    create_hold = operation(
        "POST", "/api/service/holds", HoldShape, NewHold, who=SERVICE, status=201, errors=(400, 402, 404, 409)
    )
    service_hold = operation("GET", OfOne("/api/service/holds/{hold_id}"), HoldShape, who=SERVICE)
    settle_hold = operation(
        "POST", OfOne("/api/service/holds/{hold_id}/settle"), HoldShape, Settlement, who=SERVICE, errors=(409,)
    )
    void_hold = operation(
        "POST", OfOne("/api/service/holds/{hold_id}/void"), HoldShape, Giving, who=SERVICE, errors=(409,)
    )


class PeopleOperations:
    """Registering, signing in, one's own password, address, second factor and profile."""

    register = operation(
        "POST", "/api/auth/register", MailSent, Registration, who=ANYONE, status=202, errors=(429, 500, 503)
    )
    send_code = operation("POST", "/api/auth/otp", MailSent, CodeAsked, who=ANYONE, status=202, errors=(429, 500, 503))
    verify = operation(
        "POST", "/api/auth/verify", TokenPairShape, Verification, who=ANYONE, errors=(401, 403, 429, 500, 503)
    )
    login = operation("POST", "/api/auth/login", TokenPairShape, Login, who=ANYONE, errors=(401, 403, 429, 500, 503))
    forgot_password = operation(
        "POST", "/api/auth/password/forgot", MailSent, PasswordForgotten, who=ANYONE, status=202, errors=(429, 500, 503)
    )
    reset_password = operation(
        "POST", "/api/auth/password/reset", PasswordChanged, PasswordReset, who=ANYONE, errors=(401, 429, 500, 503)
    )
    change_password = operation(
        "POST", "/api/auth/password", PasswordChanged, PasswordChange, who=PERSON, whole=True, errors=(409,)
    )
    change_email = operation(
        "POST", "/api/auth/email", MailSent, NewAddress, who=PERSON, whole=True, status=202, errors=(409,)
    )
    confirm_email = operation(
        "POST", "/api/auth/email/confirm", ProfileShape, NewAddressCode, who=PERSON, whole=True, errors=(409,)
    )
    enrol_totp = operation(
        "POST", "/api/auth/totp", TotpEnrolment, PasswordShown, who=PERSON, whole=True, status=201, errors=(409,)
    )
    confirm_totp = operation(
        "POST", "/api/auth/totp/confirm", RecoveryCodes, TotpConfirmation, who=PERSON, whole=True, errors=(409,)
    )
    remove_totp = operation(
        "POST", "/api/auth/totp/disable", NoneType, TotpRemoval, who=PERSON, whole=True, errors=(409,)
    )
    renew_recovery_codes = operation(
        "POST", "/api/auth/totp/recovery-codes", RecoveryCodes, FactorBody, who=PERSON, whole=True, errors=(409,)
    )
    who_am_i = operation("GET", "/api/auth/me", ProfileShape, who=PERSON)
    update_me = operation("PATCH", "/api/auth/me", ProfileShape, ProfilePatch, who=PERSON, whole=True)


class TokenOperations:
    """What a person does with the tokens of a sign-in, and signing in elsewhere."""

    refresh = operation(
        "POST", "/api/auth/refresh", TokenPairShape, RefreshBody, who=ANYONE, errors=(401, 429, 500, 503)
    )
    narrow_token = operation("POST", "/api/auth/token", AccessTokenShape, NarrowBody, who=PERSON, errors=(404,))
    log_out = operation("POST", "/api/auth/logout", NoneType, who=PERSON)
    revoke_token = operation("POST", "/api/auth/revoke", RevokedShape, OneToRevoke, who=PERSON)
    revoke_all_tokens = operation(
        "POST", "/api/auth/revoke-all", RevokedShape, RevokeAllBody, who=PERSON, optional=True
    )
    sessions = operation("GET", "/api/auth/sessions", Listing[SessionShape], PageQuery, who=PERSON)
    end_session = operation("DELETE", OfOne("/api/auth/sessions/{session_id}"), NoneType, who=PERSON)
    begin_sign_in = operation(
        "GET",
        OfOne("/api/auth/oidc/{provider}"),
        NoneType,
        BeginQuery,
        who=ANYONE,
        status=303,
        errors=(401, 404, 500, 503),
    )
    link_sign_in = operation(
        "POST",
        OfOne("/api/auth/oidc/{provider}"),
        SignInUrl,
        PasswordShown,
        who=PERSON,
        whole=True,
        optional=True,
        errors=(404, 409, 503),
    )
    finish_sign_in = operation(
        "GET",
        OfOne("/api/auth/oidc/{provider}/callback"),
        TokenPairShape,
        who=ANYONE,
        errors=(401, 404, 409, 429, 500, 503),
    )


class BrowserOperations:
    """How an operator begins a session of the console."""

    login_link = operation("POST", "/api/admin/login-links", LoginLinkShape, status=201)


class PaymentOperations:
    """Buying: pages, orders, invoices, plans; what operators see of payments, and the provider's events."""

    setup_billing = operation(
        "POST", "/api/billing/setup", PageShape, NewSetup, scope=BILLING_SETUP, optional=True, errors=(404, 409, 503)
    )
    billing_portal = operation(
        "POST", "/api/billing/portal", PageShape, NewPortal, scope=BILLING_SETUP, optional=True, errors=(404, 409, 503)
    )
    checkout = operation(
        "POST",
        "/api/billing/checkout",
        PageShape,
        NewCheckout,
        scope=BILLING_SETUP,
        optional=True,
        errors=(404, 409, 503),
    )
    own_orders = operation("GET", "/api/billing/orders", Listing[OrderShape], OrdersQuery, scope=BILLING_READ)
    own_order = operation("GET", OfOne("/api/billing/orders/{order_id}"), OrderShape, scope=BILLING_READ)
    invoices = operation("GET", "/api/billing/invoices", Listing[InvoiceShape], PageQuery, scope=BILLING_READ)
    plans = operation("GET", "/api/billing/plans", PlansShape, scope=BILLING_READ)
    orders = operation("GET", "/api/admin/orders", Listing[AdminOrderShape], AdminOrdersQuery)
    order = operation("GET", OfOne("/api/admin/orders/{order_id}"), AdminOrderShape)
    refund_order = operation(
        "POST", OfOne("/api/admin/orders/{order_id}/refunds"), OrderRefundShape, NewOrderRefund, errors=(409, 503)
    )
    receipts = operation("GET", "/api/billing/receipts", Listing[ReceiptShape], PageQuery, scope=BILLING_READ)
    charges = operation("GET", "/api/admin/payments/charges", Listing[ChargeShape], ChargesQuery)
    returns = operation("GET", "/api/admin/payments/returns", Listing[ReturnShape], ReturnsQuery)
    paid_subscriptions = operation(
        "GET", "/api/admin/payments/subscriptions", Listing[PaidSubscriptionShape], PaidSubscriptionsQuery
    )
    revenue = operation("GET", "/api/admin/payments/revenue", RevenueShape, RevenueQuery)
    parked = operation("GET", "/api/admin/payments/parked", Listing[ParkedShape], ParkedQuery)
    credit_parked = operation(
        "POST",
        OfOne("/api/admin/payments/parked/{parked_id}/credit"),
        ParkedShape,
        CreditParked,
        optional=True,
        errors=(409, 503),
    )
    dismiss_parked = operation(
        "POST", OfOne("/api/admin/payments/parked/{parked_id}/dismiss"), ParkedShape, DismissParked, errors=(409, 503)
    )
    receive_stripe_event = operation("POST", "/api/webhooks/stripe", ReceivedShape, who=ANYONE, errors=(400, 404, 413))
    payment_events = operation(
        "GET", "/api/admin/payments/events", Listing[PaymentEventShape], PaymentEventsQuery, errors=(404,)
    )
    replay_payment_event = operation(
        "POST", OfOne("/api/admin/payments/events/{event_id}/replay"), PaymentEventShape, errors=(404,)
    )
    compare_payments = operation(
        "POST", "/api/admin/payments/reconcile", ComparisonShape, NewComparison, status=202, errors=(404,)
    )
    payment_comparison = operation("GET", "/api/admin/payments/reconcile", ComparisonShape, errors=(404,))


class WebhookOperations:
    """Where notices are sent to: one's own endpoints, and by operators their own."""

    add_webhook_endpoint = operation(
        "POST", "/api/webhooks/endpoints", NewEndpointShape, NewEndpoint, scope=BILLING_SETUP, status=201
    )
    add_webhook_of_operators = operation(
        "POST",
        "/api/admin/webhooks/endpoints",
        NewEndpointShape,
        NewEndpoint,
        status=201,
        **OF_OPERATORS,
    )
    webhook_endpoints = operation(
        "GET", "/api/webhooks/endpoints", Listing[EndpointShape], PageQuery, scope=BILLING_READ
    )
    webhooks_of_operators = operation(
        "GET",
        "/api/admin/webhooks/endpoints",
        Listing[EndpointShape],
        PageQuery,
        **OF_OPERATORS,
    )
    webhook_endpoint = operation("GET", _ENDPOINT, EndpointShape, scope=BILLING_READ)
    webhook_of_operators = operation(
        "GET",
        _OF_OPERATORS,
        EndpointShape,
        **OF_OPERATORS,
    )
    update_webhook_endpoint = operation("PATCH", _ENDPOINT, EndpointShape, EndpointPatch, scope=BILLING_SETUP)
    update_webhook_of_operators = operation(
        "PATCH",
        _OF_OPERATORS,
        EndpointShape,
        EndpointPatch,
        **OF_OPERATORS,
    )
    remove_webhook_endpoint = operation("DELETE", _ENDPOINT, NoneType, scope=BILLING_SETUP)
    remove_webhook_of_operators = operation(
        "DELETE",
        _OF_OPERATORS,
        NoneType,
        **OF_OPERATORS,
    )
    rotate_webhook_secret = operation("POST", _ENDPOINT / "rotate", NewEndpointShape, scope=BILLING_SETUP)
    rotate_webhook_of_operators = operation(
        "POST",
        _OF_OPERATORS / "rotate",
        NewEndpointShape,
        **OF_OPERATORS,
    )
    send_test_notice = operation("POST", _ENDPOINT / "test", DeliveryShape, scope=BILLING_SETUP, status=202)
    test_webhook_of_operators = operation(
        "POST",
        _OF_OPERATORS / "test",
        DeliveryShape,
        status=202,
        **OF_OPERATORS,
    )
    webhook_deliveries = operation(
        "GET",
        _ENDPOINT / "deliveries",
        Listing[DeliveryShape],
        PageQuery,
        scope=BILLING_READ,
    )
    deliveries_of_operators = operation(
        "GET",
        _OF_OPERATORS / "deliveries",
        Listing[DeliveryShape],
        PageQuery,
        **OF_OPERATORS,
    )
    redeliver = operation(
        "POST",
        OfTwo("/api/webhooks/endpoints/{endpoint_id}/deliveries/{delivery_id}/redeliver"),
        DeliveryShape,
        scope=BILLING_SETUP,
        status=202,
    )
    redeliver_of_operators = operation(
        "POST",
        OfTwo("/api/admin/webhooks/endpoints/{endpoint_id}/deliveries/{delivery_id}/redeliver"),
        DeliveryShape,
        status=202,
        **OF_OPERATORS,
    )


class PlanOperations:
    """Where an account stands, another plan for it, and features of plans."""

    billing_status = operation("GET", "/api/billing/status", StatusShape, scope=BILLING_READ)
    plans_in_force = operation("GET", "/api/admin/plans", PlansShape)
    subscription = operation("GET", "/api/billing/subscription", SubscriptionShape, scope=BILLING_READ, errors=(404,))
    plan_prices = operation("GET", OfOne("/api/billing/plans/{plan_id}/prices"), PlanPricesShape, scope=BILLING_READ)
    preview_plan = operation("GET", OfOne("/api/billing/plans/{plan_id}/preview"), PlanPreviewShape, scope=BILLING_READ)
    change_subscription = operation(
        "PUT", "/api/billing/subscription", SubscriptionShape, PlanChange, scope=BILLING_SETUP, errors=(404, 409, 503)
    )
    features = operation("GET", OfOne("/api/service/accounts/{account_id}/features"), FeaturesShape, who=SERVICE)
    use_feature = operation(
        "POST", "/api/service/features/use", FeatureShape, NewFeatureUse, who=SERVICE, errors=(404, 409, 429)
    )


class Operations(
    AccountOperations,
    KeyOperations,
    OrganizationOperations,
    DirectoryOperations,
    OwnKeyOperations,
    CreditOperations,
    BudgetOperations,
    UsageOperations,
    ReportOperations,
    ExportOperations,
    OversightOperations,
    MarginOperations,
    PeopleOperations,
    TokenOperations,
    BrowserOperations,
    PaymentOperations,
    WebhookOperations,
    PlanOperations,
):
    """Those that a client has as they are; those of services it repeats (`billing.client.service`)."""


# By what the document calls a group.
_GROUPS: Final = {
    "accounts": AccountOperations,
    "keys": KeyOperations,
    "organizations": OrganizationOperations,
    "directories": DirectoryOperations,
    "own_keys": OwnKeyOperations,
    "credit": CreditOperations,
    "budgets": BudgetOperations,
    "usage": UsageOperations,
    "sums": ReportOperations,
    "exports": ExportOperations,
    "oversight": OversightOperations,
    "margin": MarginOperations,
    "metering": ServiceOperations,
    "people": PeopleOperations,
    "tokens": TokenOperations,
    "browsers": BrowserOperations,
    "payments": PaymentOperations,
    "webhooks_out": WebhookOperations,
    "plans": PlanOperations,
}
# All of them, in the order of the document, each with its group.
OPERATIONS: Final = {
    each: tag for tag, group in _GROUPS.items() for each in vars(group).values() if isinstance(each, Operation)
}
