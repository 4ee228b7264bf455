"""The billing API's calls of a person, or of an API key of theirs: signing in, keys, organizations, what was used.

A `PersonCalls` takes a person's access token, or an API key, as `api_key`; to register and to sign in it needs none. An
organization is that of the token, but for the calls that name one.
"""

from msgspec import UNSET

from billing.calls import page_query, path_part
from billing.credit_calls import CreditCalls
from billing.pages import DEFAULT_LIMIT
from billing.payment_calls import PaymentCalls
from billing.schemas.accounts import NewQuotas, UserQuotasShape
from billing.schemas.base import Listing
from billing.schemas.keys import (
    KeyPatch,
    KeyShape,
    LeakedKey,
    LeakedShape,
    NewKeyShape,
    NewOwnKey,
    RotatedKeyShape,
    Rotation,
)
from billing.schemas.organizations import (
    InvitationShape,
    MemberShape,
    NewInvitation,
    NewOrganization,
    OrganizationPatch,
    OrganizationShape,
    RoleName,
    RolePatch,
    Transfer,
)
from billing.schemas.people import (
    CodeAsked,
    FactorBody,
    Login,
    MailSent,
    PasswordChange,
    PasswordChanged,
    PasswordForgotten,
    PasswordReset,
    PasswordShown,
    ProfileShape,
    RecoveryCodes,
    Registration,
    TotpConfirmation,
    TotpEnrolment,
    TotpRemoval,
    Verification,
)
from billing.schemas.quotas import QuotaShape
from billing.schemas.reports import BillingSummaryShape, BucketsShape, SummaryShape
from billing.schemas.subscriptions import PlanChange, PlanPreviewShape, StatusShape, SubscriptionShape
from billing.schemas.system import RefusedShape
from billing.schemas.tokens import AccessTokenShape, NarrowBody, RefreshBody, SessionShape, TokenPairShape
from billing.schemas.usage import EventShape, ExplainedEventShape, TotalsShape

Query = dict[str, str | None]


class PersonCalls(CreditCalls, PaymentCalls):
    """Calls one gateway as a person or with an API key, as `BillingCalls` says."""

    # Signing in

    async def register(self, body: Registration) -> MailSent:
        """Ask for a new user; a code is mailed to the address."""
        return await self._call("POST", "/api/auth/register", MailSent, body=body)

    async def send_code(self, body: CodeAsked) -> MailSent:
        """Have a code mailed."""
        return await self._call("POST", "/api/auth/otp", MailSent, body=body)

    async def verify(self, body: Verification) -> TokenPairShape:
        """Prove an address by its code, and sign in."""
        return await self._call("POST", "/api/auth/verify", TokenPairShape, body=body)

    async def login(self, body: Login) -> TokenPairShape:
        """Sign in, by a password or a mailed code."""
        return await self._call("POST", "/api/auth/login", TokenPairShape, body=body)

    async def refresh(self, refresh_token: str) -> TokenPairShape:
        """Return new tokens for a refresh token, which is good once."""
        return await self._call(
            "POST", "/api/auth/refresh", TokenPairShape, body=RefreshBody(refresh_token=refresh_token)
        )

    async def narrow_token(self, scope: str | None, org_id: str | None) -> AccessTokenShape:
        """Return a token with fewer scopes, or for another organization."""
        body = NarrowBody(scope=scope, org_id=org_id)
        return await self._call("POST", "/api/auth/token", AccessTokenShape, body=body)

    async def log_out(self) -> None:
        """End the session of the token."""
        await self._send("POST", "/api/auth/logout")

    async def who_am_i(self) -> ProfileShape:
        """Return who one is, and what the token allows."""
        return await self._call("GET", "/api/auth/me", ProfileShape)

    async def sessions(self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Listing[SessionShape]:
        """List the caller's sessions."""
        query = page_query(limit, cursor)
        return await self._call("GET", "/api/auth/sessions", Listing[SessionShape], query=query)

    async def end_session(self, session_id: str) -> None:
        """End one of the caller's sessions."""
        await self._send("DELETE", f"/api/auth/sessions/{path_part(session_id)}")

    async def change_password(self, body: PasswordChange) -> PasswordChanged:
        """Change the caller's password."""
        return await self._call("POST", "/api/auth/password", PasswordChanged, body=body)

    async def forgot_password(self, email: str) -> MailSent:
        """Have mailed what a new password is set with."""
        return await self._call("POST", "/api/auth/password/forgot", MailSent, body=PasswordForgotten(email=email))

    async def reset_password(self, body: PasswordReset) -> PasswordChanged:
        """Set a new password by what was mailed."""
        return await self._call("POST", "/api/auth/password/reset", PasswordChanged, body=body)

    async def enrol_totp(self, password: str | None) -> TotpEnrolment:
        """Make the secret of an authenticator app."""
        return await self._call("POST", "/api/auth/totp", TotpEnrolment, body=PasswordShown(password=password))

    async def confirm_totp(self, code: str) -> RecoveryCodes:
        """Have the app count from now on."""
        return await self._call("POST", "/api/auth/totp/confirm", RecoveryCodes, body=TotpConfirmation(code=code))

    async def remove_totp(self, body: TotpRemoval) -> None:
        """Remove the app."""
        await self._send("POST", "/api/auth/totp/disable", body)

    async def renew_recovery_codes(self, body: FactorBody) -> RecoveryCodes:
        """Replace the caller's recovery codes."""
        return await self._call("POST", "/api/auth/totp/recovery-codes", RecoveryCodes, body=body)

    # Keys of one's own account

    async def create_own_key(self, key: NewOwnKey) -> NewKeyShape:
        """Create a key. The answer holds the secret."""
        return await self._call("POST", "/api/billing/keys", NewKeyShape, body=key)

    async def own_keys(
        self, user_id: str | None = None, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[KeyShape]:
        """List keys of the account, or of one user of it, revoked ones included."""
        query = {"user_id": user_id, **page_query(limit, cursor)}
        return await self._call("GET", "/api/billing/keys", Listing[KeyShape], query=query)

    async def own_key(self, key_id: str) -> KeyShape:
        """Return a key without its secret."""
        return await self._call("GET", f"/api/billing/keys/{path_part(key_id)}", KeyShape)

    async def own_key_usage(self, key_id: str) -> TotalsShape:
        """Return totals of what a key has used."""
        return await self._call("GET", f"/api/billing/keys/{path_part(key_id)}/usage", TotalsShape)

    async def update_own_key(self, key_id: str, changes: KeyPatch) -> KeyShape:
        """Change a key."""
        return await self._call("PATCH", f"/api/billing/keys/{path_part(key_id)}", KeyShape, body=changes)

    async def rotate_own_key(self, key_id: str, grace_s: int) -> RotatedKeyShape:
        """Give a key a new secret, which the answer holds."""
        path, body = f"/api/billing/keys/{path_part(key_id)}/rotate", Rotation(grace_seconds=grace_s)
        return await self._call("POST", path, RotatedKeyShape, body=body)

    async def revoke_own_key(self, key_id: str) -> None:
        """Make a key invalid on every gateway within a second; revoking it again does nothing."""
        await self._send("DELETE", f"/api/billing/keys/{path_part(key_id)}")

    async def revoke_leaked_key(self, secret: str) -> LeakedShape:
        """Revoke the key of a secret that somebody has found; needs no token."""
        return await self._call("POST", "/api/billing/keys/revoke-leaked", LeakedShape, body=LeakedKey(key=secret))

    # Usage

    async def usage_summary(self, query: Query) -> SummaryShape:
        """Return what was used in a time, by up to two groups."""
        return await self._call("GET", "/api/account/usage/summary", SummaryShape, query=query)

    async def usage_buckets(self, query: Query) -> BucketsShape:
        """Return what was used in each step of a time."""
        return await self._call("GET", "/api/account/usage/buckets", BucketsShape, query=query)

    async def usage_page(self, query: Query) -> Listing[EventShape]:
        """List metered requests by any filter of the API."""
        return await self._call("GET", "/api/account/usage/events", Listing[EventShape], query=query)

    async def own_event(self, request_id: str) -> ExplainedEventShape:
        """Return a metered request with the lines of its charge."""
        path = f"/api/account/usage/events/{path_part(request_id)}"
        return await self._call("GET", path, ExplainedEventShape)

    async def own_refusals(self, key_id: str | None, limit: int) -> Listing[RefusedShape]:
        """List the account's last requests that were refused."""
        query = {"key_id": key_id, "limit": str(limit)}
        return await self._call("GET", "/api/account/usage/refusals", Listing[RefusedShape], query=query)

    async def own_refusal(self, request_id: str) -> RefusedShape:
        """Return a refused request."""
        return await self._call("GET", f"/api/account/usage/refusals/{path_part(request_id)}", RefusedShape)

    async def usage_totals(self, query: Query) -> TotalsShape:
        """Return totals, of a key or a user or the whole account."""
        return await self._call("GET", "/api/billing/usage", TotalsShape, query=query)

    async def billing_summary(self) -> BillingSummaryShape:
        """Return the month so far, and what is left."""
        return await self._call("GET", "/api/account/billing/summary", BillingSummaryShape)

    # Organizations

    async def organizations(
        self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[OrganizationShape]:
        """List the organizations that one belongs to."""
        return await self._call("GET", "/api/orgs", Listing[OrganizationShape], query=page_query(limit, cursor))

    async def create_organization(self, name: str) -> OrganizationShape:
        """Create an organization, as its owner."""
        return await self._call("POST", "/api/orgs", OrganizationShape, body=NewOrganization(name=name))

    async def organization(self, org_id: str) -> OrganizationShape:
        """Return an organization."""
        return await self._call("GET", _org(org_id), OrganizationShape)

    async def update_organization(self, org_id: str, name: str | None, slug: str | None) -> OrganizationShape:
        """Change an organization's name or slug."""
        body = OrganizationPatch(name=UNSET if name is None else name, slug=UNSET if slug is None else slug)
        return await self._call("PATCH", _org(org_id), OrganizationShape, body=body)

    async def transfer_ownership(self, org_id: str, user_id: str, become: RoleName) -> OrganizationShape:
        """Give an organization to another member."""
        body = Transfer(user_id=user_id, become=become)
        return await self._call("POST", f"{_org(org_id)}/transfer-ownership", OrganizationShape, body=body)

    async def members(
        self, org_id: str, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[MemberShape]:
        """List the members of an organization."""
        query = page_query(limit, cursor)
        return await self._call("GET", f"{_org(org_id)}/members", Listing[MemberShape], query=query)

    async def set_role(self, org_id: str, user_id: str, role: RoleName) -> MemberShape:
        """Give a member another role."""
        return await self._call("PATCH", _member(org_id, user_id), MemberShape, body=RolePatch(role=role))

    async def remove_member(self, org_id: str, user_id: str) -> None:
        """Remove a member, or leave."""
        await self._send("DELETE", _member(org_id, user_id))

    async def member_quotas(self, org_id: str, user_id: str) -> UserQuotasShape:
        """Return the limits of a member."""
        return await self._call("GET", f"{_member(org_id, user_id)}/quotas", UserQuotasShape)

    async def set_member_quotas(self, org_id: str, user_id: str, quotas: list[QuotaShape]) -> UserQuotasShape:
        """Replace the limits of a member."""
        path, body = f"{_member(org_id, user_id)}/quotas", NewQuotas(quotas=quotas)
        return await self._call("PUT", path, UserQuotasShape, body=body)

    async def invitations(
        self, org_id: str, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[InvitationShape]:
        """List invitations, also those that are over."""
        query = page_query(limit, cursor)
        return await self._call("GET", f"{_org(org_id)}/invitations", Listing[InvitationShape], query=query)

    async def invite(self, org_id: str, email: str, role: RoleName) -> InvitationShape:
        """Send an invitation to an address."""
        body = NewInvitation(email=email, role=role)
        return await self._call("POST", f"{_org(org_id)}/invitations", InvitationShape, body=body)

    async def billing_status(self) -> StatusShape:
        """Return where the account stands, and what to do next."""
        return await self._call("GET", "/api/billing/status", StatusShape)

    async def preview_plan(self, plan: str) -> PlanPreviewShape:
        """Return what choosing a plan would do."""
        return await self._call("GET", f"/api/billing/plans/{path_part(plan)}/preview", PlanPreviewShape)

    async def change_subscription(self, plan: str) -> SubscriptionShape:
        """Change the subscription to another plan."""
        return await self._call("PUT", "/api/billing/subscription", SubscriptionShape, body=PlanChange(plan=plan))

    async def resend_invitation(self, org_id: str, invitation_id: str) -> InvitationShape:
        """Send an invitation again."""
        path = f"{_org(org_id)}/invitations/{path_part(invitation_id)}/resend"
        return await self._call("POST", path, InvitationShape)

    async def revoke_invitation(self, org_id: str, invitation_id: str) -> None:
        """Revoke an open invitation."""
        await self._send("DELETE", f"{_org(org_id)}/invitations/{path_part(invitation_id)}")

    async def accept_invitation(self, token: str) -> OrganizationShape:
        """Accept an invitation by the token of its mail."""
        return await self._call("POST", f"/api/invitations/{path_part(token)}/accept", OrganizationShape)


def _org(org_id: str) -> str:
    return f"/api/orgs/{path_part(org_id)}"


def _member(org_id: str, user_id: str) -> str:
    return f"{_org(org_id)}/members/{path_part(user_id)}"
