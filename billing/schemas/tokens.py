"""Tokens and sessions of people, as the API takes and answers them. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from msgspec import Meta

from billing.schemas.base import Answer, Body, Moment, Query, matching

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
