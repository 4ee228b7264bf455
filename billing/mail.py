"""Mail: what people are told, written in the transaction of what it tells, and sent later.

This file owns that a mail is sent if and only if its transaction was committed, that no mail waits for ever, and that a
text is kept no longer than it is needed: it may hold a code.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from billing.database.connection import queries
from billing.errors import MetergateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.database.connection import Connection

ID_PREFIX: Final = "mail_"
# Who mails.
SERVICE: Final = "Metergate"
# Characters of an address (RFC 5321, 4.5.3.1.3, without the brackets).
MOST_EMAIL: Final = 254
# A dot-atom of at most 64 characters and a name of hosts (RFC 5321, 4.1.2), in lower case.
_EMAIL: Final = re.compile(
    r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?",
    re.ASCII,
)
_MOST_LOCAL: Final = 64
_query = queries("billing")


class BadAddress(MetergateError):
    """This is no address that mail can be sent to."""

    kind, field = "invalid", "email"


def parse_email(text: str) -> str:
    """Return an address in lower case, as it is stored and compared. Raises `BadAddress`."""
    email = text.strip(" ").lower()
    local = email.partition("@")[0]
    if len(email) > MOST_EMAIL or len(local) > _MOST_LOCAL or not text.isascii() or not _EMAIL.fullmatch(email):
        raise BadAddress("email is an address such as ada@example.com.")
    return email


async def enqueue(connection: Connection, new_id: Callable[[], str], recipient: str, subject: str, body: str) -> str:
    """Store a mail to be sent once the caller's transaction is committed; return its id. `subject` is one line and
    `body` plain text. One to nobody, which is a user without an address, is not stored. Raises `DatabaseError`, and
    `ValueError` for a line break in a header."""
    if any(character in recipient + subject for character in "\r\n\0"):
        raise ValueError("a header of a mail is one line")
    mail_id = ID_PREFIX + new_id()
    if recipient:
        await connection.execute(_query("mail_enqueue"), mail_id, recipient, subject, body)
    return mail_id
