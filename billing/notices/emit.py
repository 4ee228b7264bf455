"""Writes a notice in the transaction of what it is about: it is sent if and only if that is committed, and sent once.

A worker hands it out later, to mails, endpoints and NOTIFICATION_WEBHOOK.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from billing.database.connection import queries
from billing.notices.mail_templates import TYPES, NoticeType

if TYPE_CHECKING:
    from billing.database.connection import Connection

_query = queries("billing.notices")


async def emit(
    connection: "Connection", account_id: str, type: NoticeType, data: Mapping[str, Any], *, once: str | None = None
) -> str | None:
    """Write a notice about an account, to be told once the caller's transaction is committed; return its id.

    `data` is shown to customers: amounts as decimal strings of USD, times as RFC 3339, never a secret. With `once`, the
    id of what has happened (a payment, a period), a second notice of the type and account is not written: None. Raises
    `DatabaseError`, and `ValueError` for a type that there is none of.
    """
    if type not in TYPES:
        raise ValueError(f"{type!r} is no type of notice")
    found = await connection.fetchval(_query("notices_emit"), account_id, type, data, once)
    return None if found is None else str(found)
