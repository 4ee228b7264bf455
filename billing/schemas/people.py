"""People: how they register, sign in, and what they are shown of themselves. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from msgspec import Meta

from billing.schemas.base import Answer, Body, Id, Moment, Name

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
    """What of oneself is changed."""

    name: Name


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
