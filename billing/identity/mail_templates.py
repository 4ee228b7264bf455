"""What mails to people say. Pure.

A mail is plain text, and holds nothing that somebody else has written: it can be sent to any address, and is no way to
send strangers a message. Names are the exception where a mail is about nothing else: `quotable` keeps links out.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from typing import Final

from billing.mail import SERVICE

# How long a mailed code and a token to set a new password are good, in seconds.
CODE_S: Final = 600
RESET_S: Final = 1800
_MINUTES_S: Final = 60
_NOT_YOU: Final = "If this was not you, do nothing: without the code nothing happens."
_NOTHING_TO_DO: Final = "If this was not you, there is nothing to do."
_NEW_PASSWORD: Final = "If this was not you, set a new password at once, and revoke your API keys."  # noqa: S105
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
class MailText:
    """A mail without its recipient."""

    subject: str
    body: str = field(repr=False)


class Template:
    """A subject, and paragraphs in which names in braces stand for values."""

    def __init__(self, subject: str, *paragraphs: str) -> None:
        self._subject, self._body = subject, "\n\n".join(paragraphs) + "\n"

    def filled(self, **values: object) -> MailText:
        """Return the mail with these values."""
        return MailText(f"{SERVICE}: {self._subject}", self._body.format(**values))


def _with_code(subject: str, what: str) -> Template:
    text = f"{{code}} is the code to {what}. It works once, within {CODE_S // _MINUTES_S} minutes."
    return Template(subject, text, "Share this code with nobody: we never ask for it.", _NOT_YOU)


VERIFY_ADDRESS: Final = _with_code("verify your address", "verify your address")
SIGN_IN_CODE: Final = _with_code("your code to sign in", "sign in")
# To the new address.
NEW_ADDRESS: Final = _with_code("your new address", "make this your address")
# To an owner whose address somebody registers again.
ALREADY_REGISTERED: Final = Template(
    "you are already registered",
    "Somebody tried to register this address, which is already registered. If it was you, sign in with your password "
    "or a mailed code; a forgotten password can be reset.",
    _NOTHING_TO_DO,
)
# To an address of nobody, with which somebody wanted to sign in.
NOBODY_REGISTERED: Final = Template(
    "this address is not registered",
    "Somebody tried to sign in with this address, which is not registered here, or may not sign in. If it was "
    "you, register, or use the address that you registered.",
    _NOTHING_TO_DO,
)
RESET_PASSWORD: Final = Template(
    "set a new password",
    "Somebody asked to set a new password for this address. This token does it; it works once, within "
    f"{RESET_S // _MINUTES_S} minutes:",
    "{token}",
    "If this was not you, do nothing: your password stays as it is.",
)
# `keys` is empty, or a sentence about revoked keys.
PASSWORD_CHANGED: Final = Template(
    "your password was changed",
    "Your password was changed, and your other sessions were ended.{keys}",
    _NEW_PASSWORD,
)
# To the old address.
ADDRESS_CHANGED: Final = Template(
    "your address was changed",
    "Your address here is now {address}; this one no longer signs you in.",
    "If this was not you, contact whoever runs this service at once.",
)
FACTOR_ADDED: Final = Template(
    "your authenticator app was added",
    "From now on, signing in needs a code of your authenticator app.",
    _NEW_PASSWORD,
)
FACTOR_REMOVED: Final = Template(
    "your authenticator app was removed",
    "Signing in no longer needs a code of an authenticator app.",
    _NEW_PASSWORD,
)
# `issuer` is a provider of the configuration.
ACCOUNT_LINKED: Final = Template(
    "another way to sign in was added",
    "From now on, an account at {issuer} signs you in.",
    "If this was not you, set a new password at once, and contact whoever runs this service: ending your sessions "
    "does not remove it.",
)
RECOVERY_CODE_USED: Final = Template(
    "a recovery code was used",
    "Somebody signed in to your account with a recovery code. Codes left: {left}.",
    "If this was not you, set a new password at once, and make new recovery codes.",
)


def shown_in_part(email: str) -> str:
    """Return an address as a mail to another one shows it."""
    local, _, domain = email.partition("@")
    return f"{local[0]}...@{domain}"
