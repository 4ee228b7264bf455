"""Mail: what people are told, written in the transaction of what it tells, and sent later.

This file owns that a mail is sent if and only if its transaction was committed, that no mail waits for ever, and that a
text is kept no longer than it is needed: it may hold a code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing.database.connection import queries

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.database.connection import Connection

ID_PREFIX: Final = "mail_"
# Who mails.
SERVICE: Final = "Metergate"
_query = queries("billing")


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
