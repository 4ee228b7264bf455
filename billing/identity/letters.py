"""What mails to people say. Pure.

A letter is plain text, and holds nothing that somebody else has written: a mail can be sent to any address, and is no
way to send strangers a message. Names are the exception where a letter is about nothing else: `quotable` keeps links
out of them.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from typing import Final

from billing.identity.codes import CODE_S, RESET_S
from billing.mail import SERVICE

_MINUTES_S: Final = 60
_NOT_YOU: Final = "If this was not you, do nothing: without the code nothing happens."
# Characters of a name that a mail shows.
MOST_QUOTED: Final = 80
# What a mail program may make a link of: a dot or colon within a word (`example.com`, `mailto:x`), a slash, an @.
_LINKS: Final = re.compile(r'[/\\@<>"]|[.:\u3002](?=\S)|\bwww\b', re.IGNORECASE)


def quotable(name: str) -> str | None:
    """Return a name that somebody else has chosen as a mail may show it, in one line; None for one of which the
    reader's mail program might make a link."""
    one_line = "".join(each if each.isprintable() else " " for each in name)
    if _LINKS.search(unicodedata.normalize("NFKC", one_line)) is not None:
        return None
    return one_line[:MOST_QUOTED].strip() or None


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail without its recipient."""

    subject: str
    body: str = field(repr=False)


def _letter(subject: str, *paragraphs: str) -> Letter:
    return Letter(f"{SERVICE}: {subject}", "\n\n".join(paragraphs) + "\n")


def _code(subject: str, secret: str, what: str) -> Letter:
    text = f"{secret} is the code to {what}. It is good once, for {CODE_S // _MINUTES_S} minutes."
    return _letter(subject, text, "Tell nobody this code: we never ask for it.", _NOT_YOU)


def verify_code(secret: str) -> Letter:
    """Return the letter with the code that proves an address."""
    return _code("verify your address", secret, "verify your address")


def sign_in_code(secret: str) -> Letter:
    """Return the letter with the code to sign in."""
    return _code("your code to sign in", secret, "sign in")


def new_address_code(secret: str) -> Letter:
    """Return the letter to a new address."""
    return _code("your new address", secret, "make this your address")


def already_registered() -> Letter:
    """Return the letter to who is registered, where somebody registers that address again."""
    return _letter(
        "you are registered already",
        "Somebody has asked to register this address, which is registered. If it was you, sign in with your password "
        "or with a code by mail; a forgotten password can be replaced.",
        "If this was not you, there is nothing to do.",
    )


def nobody_registered() -> Letter:
    """Return the letter to an address of nobody, from which somebody wanted to sign in."""
    return _letter(
        "this address is not registered",
        "Somebody has asked to sign in with this address, which is not registered here, or may not sign in. If it was "
        "you, register, or try the address that you have registered.",
        "If this was not you, there is nothing to do.",
    )


def reset_token(token: str) -> Letter:
    """Return the letter with what a new password is set with."""
    return _letter(
        "set a new password",
        f"Somebody has asked to set a new password for this address. It is done with this, which is good once, for "
        f"{RESET_S // _MINUTES_S} minutes:",
        token,
        "If this was not you, do nothing: your password stays as it is.",
    )


def password_changed(*, keys_revoked: int) -> Letter:
    """Return the notice of a new password."""
    keys = f" {keys_revoked} API keys of yours were revoked." if keys_revoked else ""
    return _letter(
        "your password was changed",
        f"Your password was changed, and your other sessions were ended.{keys}",
        "If this was not you, set a new password at once, and revoke your API keys.",
    )


def address_changed(email: str) -> Letter:
    """Return the notice to the old address: the new one is shown in part."""
    local, _, domain = email.partition("@")
    return _letter(
        "your address was changed",
        f"Your address here is now {local[0]}...@{domain}; this one does not sign you in any more.",
        "If this was not you, tell the operator of this service at once.",
    )


def second_factor_changed(*, on: bool) -> Letter:
    """Return the notice that an authenticator app is needed from now on, or is not any more."""
    return _letter(
        f"your authenticator app was {'added' if on else 'removed'}",
        "Signing in needs a code of your authenticator app from now on."
        if on
        else "Signing in does not need a code of an authenticator app any more.",
        "If this was not you, set a new password at once, and revoke your API keys.",
    )


def account_linked(issuer: str) -> Letter:
    """Return the notice that an account elsewhere signs in from now on; `issuer` is a provider of the configuration."""
    return _letter(
        "another way to sign in was added",
        f"An account at {issuer} signs you in from now on.",
        "If this was not you, set a new password at once, and tell the operator of this service: ending your sessions "
        "does not remove it.",
    )


def recovery_code_used(left: int) -> Letter:
    """Return the notice of a sign-in by a recovery code."""
    return _letter(
        "a recovery code was used",
        f"Somebody has signed in to your account with a recovery code; {left} are left.",
        "If this was not you, set a new password at once, and make new recovery codes.",
    )
