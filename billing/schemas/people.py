"""People: how they register and sign in, what they are shown of themselves, and operators of them; their tokens and
sessions; and their organizations with members, invitations and the table of roles. Pure.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from msgspec import UNSET, Meta, UnsetType

from billing.schemas.base import Answer, Body, Filter, Id, Moment, Name, PageQuery, Query, matching

Email = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=254,
        description="an address of e-mail",
        examples=["ada@example.com"],
        extra_json_schema={"format": "email"},
    ),
]
Password = Annotated[str, Meta(min_length=1, max_length=1024)]
NewPassword = Annotated[
    str,
    Meta(
        min_length=8,
        max_length=128,
        description="15 characters or more, beside an authenticator app 8; not one that many people have",
        examples=["tulip anvil quartz rowing"],
    ),
]
Code = Annotated[str, Meta(min_length=1, max_length=64, description="the 6 digits that were mailed")]
Totp = Annotated[str, Meta(min_length=1, max_length=64, description="6 digits of the authenticator app")]
RecoveryCode = Annotated[str, Meta(min_length=1, max_length=64, description="a recovery code instead of `totp`")]
Challenge = Annotated[
    Id, Meta(description="`challenge` of the answer to who asked for the code: no code that others asked for is taken")
]


class Registration(Body, frozen=True, kw_only=True):
    """Who wants to be a user. Without a password one signs in by codes that are mailed."""

    email: Email
    password: NewPassword | None = None
    name: Annotated[str, Meta(max_length=200)] = ""


class CodeAsked(Body, frozen=True, kw_only=True):
    """Where a code is sent, and what for. With the `challenge` of a registration that one goes on, and no other's."""

    email: Email
    purpose: Literal["verify", "login"] = "login"
    challenge: Annotated[Id, Meta(description="of the registration that is to go on")] | None = None


class FactorBody(Body, frozen=True, kw_only=True):
    """A second factor, for who has one: one of the two; `totp` counts where both are given."""

    totp: Totp | None = None
    recovery_code: RecoveryCode | None = None


class Verification(FactorBody, frozen=True, kw_only=True):
    """The code that proves an address."""

    email: Email
    code: Code
    challenge: Challenge | None = None


class Login(FactorBody, frozen=True, kw_only=True):
    """A password, or a code that was mailed; the password counts where both are given."""

    email: Email
    password: Password | None = None
    code: Code | None = None
    challenge: Challenge | None = None


class MailSent(Answer, frozen=True, kw_only=True):
    """A mail is on its way, whoever has the address; `challenge` goes with the code. If `sends_mail` is false, none
    comes, as `message` says."""

    status: Literal["verify", "sent"]
    email: str
    challenge: str | None = None
    message: str
    sends_mail: bool = True


class PasswordForgotten(Body, frozen=True, kw_only=True):
    """The address of the user whose password is to be replaced."""

    email: Email


class PasswordReset(Body, frozen=True, kw_only=True):
    """A new password, by the token that was mailed. `revoke_keys`: the user's API keys end, too."""

    token: Annotated[str, Meta(min_length=1, max_length=200)]
    password: NewPassword
    revoke_keys: bool = False


class PasswordChange(Body, frozen=True, kw_only=True):
    """A new password in place of the current one, which who has none leaves out."""

    current_password: Password | None = None
    password: NewPassword
    revoke_keys: bool = False


class PasswordChanged(Answer, frozen=True, kw_only=True):
    """The password is another one now."""

    status: Literal["changed"] = "changed"
    keys_revoked: int


class NewAddress(Body, frozen=True, kw_only=True):
    """Another address, and the password of who has one."""

    email: Email
    password: Password | None = None


class NewAddressCode(Body, frozen=True, kw_only=True):
    """The code that was mailed to another address."""

    email: Email
    code: Code
    challenge: Challenge | None = None


class PasswordShown(Body, frozen=True, kw_only=True):
    """The present password of a user who has one."""

    password: Password | None = None


class TotpEnrolment(Answer, frozen=True, kw_only=True):
    """The secret of an authenticator app; `uri` is what its QR code says."""

    secret: str
    uri: str


class TotpConfirmation(Body, frozen=True, kw_only=True):
    """The first code of the app."""

    code: Totp


class TotpRemoval(FactorBody, frozen=True, kw_only=True):
    """A second factor, for the last time, and the password of who has one."""

    password: Password | None = None


class RecoveryCodes(Answer, frozen=True, kw_only=True):
    """Codes that are good once each, where the app is not at hand. They are shown this once."""

    recovery_codes: list[str]


class ProfilePatch(Body, frozen=True, kw_only=True):
    """What of oneself is changed; `tz` is the time zone that pages show times in, null: that of the account."""

    name: Name | None = None
    tz: Annotated[str, Meta(max_length=64, examples=["Europe/Berlin"])] | UnsetType | None = UNSET


class OwnOrganizationShape(Answer, frozen=True, kw_only=True):
    """An organization that one belongs to; `scopes` are what the role allows."""

    id: str
    slug: str
    name: str
    personal: bool
    account_id: str
    role: str
    scopes: list[str]


class ProfileShape(Answer, frozen=True, kw_only=True):
    """Who one is. `org_id`, `role` and `scopes` are those that this token has now."""

    id: str
    email: str | None
    verified: bool
    name: str
    tz: str | None
    status: Literal["pending", "active", "disabled"]
    operator: bool
    second_factor: bool
    recovery_codes_left: int
    has_password: bool
    created_at: Moment
    last_sign_in_at: Moment | None
    org_id: str | None
    role: str | None
    scopes: list[str]
    session_id: str | None
    organizations: list[OwnOrganizationShape]

    @classmethod
    def of_user(
        cls, user: Any, caller: Any, organizations: list[OwnOrganizationShape], recovery_codes_left: int
    ) -> Self:
        """Return what somebody sees of themself."""
        return cls.of(
            user,
            caller,
            recovery_codes_left=recovery_codes_left,
            has_password=user.password_hash is not None,
            scopes=sorted(caller.scopes),
            organizations=organizations,
        )


MAX_SHOWN: Final = 8192
MAX_REASON: Final = 200

Shown = Annotated[str, Meta(min_length=1, max_length=MAX_SHOWN)]
Reason = Annotated[str, Meta(max_length=MAX_REASON)]
TokenId = Annotated[str, matching("[!-~]+", min_length=1, max_length=255)]
Scopes = Annotated[
    list[str] | str, Meta(description="a list, or a text with blanks between them", examples=["billing:read llm:proxy"])
]


class RefreshBody(Body, frozen=True, kw_only=True):
    """A refresh token, which is good once."""

    refresh_token: Shown


class NarrowBody(Body, frozen=True, kw_only=True):
    """What the token may do and in which organization; what is left out is as in the token that asks."""

    scope: Scopes | None = None
    org_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class RevokeBody(Body, frozen=True, kw_only=True):
    """What ends: an access or refresh token, or an access token by its id (`jti`)."""

    token: Shown | None = None
    jti: TokenId | None = None
    reason: Reason | None = None


_TEXT: Final = {"type": "string"}
# A body that names something.
OneToRevoke = Annotated[
    RevokeBody,
    Meta(
        extra_json_schema={
            "anyOf": [{"required": [name], "properties": {name: _TEXT}} for name in ("token", "jti")],
        }
    ),
]


class RevokeAllBody(Body, frozen=True, kw_only=True):
    """The user whose tokens end: the caller's own, or for an operator any user's."""

    user_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    reason: Reason | None = None


class RevokedShape(Answer, frozen=True, kw_only=True):
    """It is done."""

    success: bool
    message: str


class AccessTokenShape(Answer, frozen=True, kw_only=True):
    """An access token (RFC 6749, section 5.1). `scope` is what it may do now, `expires_in` seconds."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105
    expires_in: int
    scope: str
    session_id: str

    @classmethod
    def of_token(cls, token: Any) -> Self:
        """Return what a sign-in has brought."""
        return cls.of(token, expires_in=token.expires_in_s, scope=" ".join(sorted(token.scopes)))


class TokenPairShape(AccessTokenShape, frozen=True, kw_only=True):
    """The tokens of a sign-in."""

    refresh_token: str


class SessionShape(Answer, frozen=True, kw_only=True):
    """A sign-in that has not ended; `current` is the one that asks."""

    id: str
    org_id: str | None
    scopes: list[str] | None
    address: str | None
    user_agent: str | None
    device: Annotated[str, Meta(description="what `user_agent` says that it is", examples=["Firefox on Linux"])]
    created_at: Moment
    last_used_at: Moment
    expires_at: Moment
    current: bool


class BeginQuery(Query, frozen=True, kw_only=True):
    """Where the browser goes afterwards: a path on the host of FRONTEND_URL."""

    return_to: Annotated[str, Meta(max_length=1000, examples=["/billing"])] = ""


class LoginLinkShape(Answer, frozen=True, kw_only=True):
    """A link to the console that signs an operator in: once, and until then."""

    url: str
    expires_at: Moment


class SignInUrl(Answer, frozen=True, kw_only=True):
    """Where the browser has to go to sign in."""

    url: str


class JwksShape(Answer, frozen=True, kw_only=True):
    """The keys that verify this gateway's tokens (RFC 7517)."""

    keys: list[dict[str, Any]]


UserStatus = Literal["pending", "active", "disabled"]


class UsersQuery(PageQuery, frozen=True, kw_only=True):
    """Which people: of a status, or who has an address."""

    status: Annotated[UserStatus, Meta(description="pending, active or disabled")] | None = None
    email: Filter | None = None


class UserPatch(Body, frozen=True, kw_only=True):
    """A change of a user: what is absent stays as it is. `active` lets in who is pending or disabled; with
    `revoke_keys` all API keys of the user end."""

    status: Literal["active", "disabled"] | UnsetType = UNSET
    operator: Annotated[bool, Meta(description="may do what the admin key may")] | UnsetType = UNSET
    second_factor: (
        Annotated[Literal[False], Meta(description="false removes the authenticator app and its recovery codes")]
        | UnsetType
    ) = UNSET
    revoke_keys: bool = False


class UserShape(Answer, frozen=True, kw_only=True):
    """A user. `second_factor` says whether signing in needs a code of an authenticator app, which operators need."""

    id: str
    email: str
    verified: bool
    name: str
    status: UserStatus
    operator: bool
    second_factor: bool
    created_at: Moment
    last_sign_in_at: Moment | None


class UserOrganizationShape(Answer, frozen=True, kw_only=True):
    """An organization that a user belongs to."""

    id: str
    slug: str
    name: str
    account_id: str
    role: str


class UserDetailShape(UserShape, frozen=True, kw_only=True):
    """A user, and the organizations that they belong to."""

    organizations: list[UserOrganizationShape]


RoleName = Literal["owner", "admin", "member", "viewer"]
# With a character that is no space; spaces are made one each.
OrganizationName = Annotated[str, Meta(max_length=200, pattern=r"\S", examples=["Acme Corp"])]
Slug = Annotated[str, matching("[a-z0-9]+(-[a-z0-9]+)*", max_length=63, examples=["acme-corp"])]
Address = Annotated[
    str, Meta(min_length=3, max_length=254, examples=["ada@example.com"], extra_json_schema={"format": "email"})
]


class NewOrganization(Body, frozen=True, kw_only=True):
    """An organization to found; its slug is made of the name."""

    name: OrganizationName


class OrganizationPatch(Body, frozen=True, kw_only=True):
    """A change of an organization: what is absent stays as it is."""

    name: OrganizationName | UnsetType = UNSET
    slug: Slug | UnsetType = UNSET


class RolePatch(Body, frozen=True, kw_only=True):
    """A change of a member."""

    role: RoleName


class NewInvitation(Body, frozen=True, kw_only=True):
    """An invitation to send."""

    email: Address
    role: RoleName = "member"


class Transfer(Body, frozen=True, kw_only=True):
    """To which member an organization goes, and what its owner until now becomes."""

    user_id: Id
    become: RoleName = "admin"


class Closing(Body, frozen=True, kw_only=True):
    """Whether an organization is closed although there is credit left, which then stays where it is."""

    forfeit: bool = False


class OrganizationShape(Answer, frozen=True, kw_only=True):
    """An organization. `personal` is one that was made with its owner's sign-up; `account_id` is who pays; `role` is
    the caller's own there, null for an API key."""

    id: str
    slug: str
    name: str
    personal: bool
    account_id: str
    role: RoleName | None
    created_at: Moment


class MemberShape(Answer, frozen=True, kw_only=True):
    """A member, since `created_at`."""

    user_id: str
    email: str
    name: str
    role: RoleName
    created_at: Moment
    managed: Annotated[bool, Meta(description="the role is that of a group of the organization's directory")] = False
    max_keys: Annotated[int | None, Meta(description="keys that they may have, by their group")] = None


class InvitationShape(Answer, frozen=True, kw_only=True):
    """An invitation. Its token stands in the mail alone; `sends` is how many there were."""

    id: str
    email: str
    role: RoleName
    invited_by: Annotated[str | None, Meta(description="a user's id")]
    status: Literal["open", "accepted", "revoked", "expired"]
    sends: int
    created_at: Moment
    expires_at: Moment


class SeenInvitationShape(Answer, frozen=True, kw_only=True):
    """An invitation as its mail's link shows it, before anybody has signed in: who invites which address to what."""

    organization: str
    inviter: str | None
    email: str
    role: RoleName
    expires_at: Moment


class RolesShape(Answer, frozen=True, kw_only=True):
    """What each role may do, as scopes, and what each scope allows."""

    roles: dict[str, list[str]]
    scopes: dict[str, str]
