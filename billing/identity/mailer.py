"""The mailer: sends what waits in the outbox, in one gateway of all, by SMTP (RFC 5321) or to a console.

A mail is sent once or, where a gateway dies between the server's answer and its note of it, twice, with one Message-ID.
It is tried again after pauses that double; what a server refuses for good, or what has failed too often, is parked and
keeps no other back. The text of a mail that was sent or parked is removed: it may hold a code.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP as CRLF
from email.utils import format_datetime, formataddr
from typing import TYPE_CHECKING, Final, Protocol

import aiosmtplib

from billing.addresses import is_this_machine
from billing.database.connection import queries
from billing.errors import MetergateError
from billing.mail import SERVICE
from billing.pending import Standing
from billing.work import Lease, Periodic

if TYPE_CHECKING:
    from billing.database.connection import Database
    from billing.identity.codes import Codes
    from billing.pending import Pending
    from billing.settings import MailSettings

logger = logging.getLogger(__name__)

LEASE: Final = "mail"
EVERY_S: Final = 2.0
TIDY: Final = "mail_tidy"
TIDY_EVERY_S: Final = 600.0
# Mails over one connection.
MOST: Final = 200
# A mail that was taken is taken again after that. It is longer than a connection and a mail may take together.
FIRST_PAUSE_S, MOST_PAUSE_S = 60.0, 3600.0
# What has waited for as long is parked, however it has failed: codes and tokens in it are over.
STALE_S: Final = 86_400.0
FORGET_ROWS: Final = 1_000
MOST_ERROR: Final = 200
IMPLICIT_TLS_PORT: Final = 465
# Replies after which the same mail is refused again (RFC 5321, 4.2.1).
_FOR_GOOD: Final = range(500, 600)

_query = queries("billing.identity")


class MailFailed(MetergateError):
    """A mail was not taken. `of_mail`: others may be; `for_good`: it is refused each time."""

    def __init__(self, reason: str, *, of_mail: bool = False, for_good: bool = False) -> None:
        super().__init__(reason[:MOST_ERROR])
        self.of_mail, self.for_good = of_mail, for_good


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to be sent."""

    id: str
    recipient: str
    subject: str
    body: str = field(repr=False)
    created_at: datetime
    attempts: int


class Sender(Protocol):
    """Sends mails over one connection, within its context. Raises `MailFailed`."""

    async def send(self, mail: Mail) -> None: ...


# Opens a connection to send mails over. Raises `MailFailed` where there is none.
Delivery = Callable[[], AbstractAsyncContextManager[Sender]]


class Mailer:
    """Sends by `delivery`; None: nothing sends, and mails are parked in time. `owner` names this process. `standing` is
    as of the last round that was this process's."""

    def __init__(
        self, database: Database, codes: Codes, delivery: Delivery | None, settings: MailSettings, owner: str
    ) -> None:
        self._database, self._codes, self._delivery = database, codes, delivery
        self._settings, self._owner = settings, owner
        self.standing = Standing(database, _query("mail_standing"))

    def work(self, pending: Pending) -> tuple[Periodic, ...]:
        """Return what sends and what tidies up. Who can't send has another lease than who can."""
        name = LEASE if self._delivery is not None else f"{LEASE} tidied"
        send, tidy = (Lease(self._database, each, self._owner) for each in (name, TIDY))
        return (
            Periodic(
                name="mail",
                every_s=EVERY_S,
                round=self._turn,
                lease=send,
                due=lambda: self.standing.due(pending.work.mails),
                otherwise=self.standing.forget,
            ),
            Periodic(name=TIDY, every_s=TIDY_EVERY_S, round=self.tidy, lease=tidy),
        )

    async def _turn(self) -> None:
        await self.round()
        await self.standing.refresh()

    async def round(self) -> int:
        """Send what waits, `MOST` mails at most, each taken before it is sent and no more than one at a time, so that
        another gateway takes none that is under way; return how many were taken. Raises `DatabaseError`."""
        mail = None if self._delivery is None else await self._claim()
        if self._delivery is None or mail is None:
            return 0
        taken = 1
        try:
            async with self._delivery() as sender:
                while mail is not None:
                    await self._send(sender, mail)
                    mail = await self._claim() if taken < MOST else None
                    taken += mail is not None
        except MailFailed as failed:  # the server, and not this mail
            if mail is not None:
                await self._failed(mail, failed)
        return taken

    async def _claim(self) -> Mail | None:
        row = await self._database.row(_query("mail_claim"), FIRST_PAUSE_S, MOST_PAUSE_S)
        return None if row is None else Mail(**dict(row))

    async def _send(self, sender: Sender, mail: Mail) -> None:
        try:
            await sender.send(mail)
        except MailFailed as failed:
            if not failed.of_mail:
                raise
            await self._failed(mail, failed)
            return
        await self._database.execute(_query("mail_sent"), mail.id)

    async def _failed(self, mail: Mail, failed: MailFailed) -> None:
        for_good = failed.for_good or mail.attempts >= self._settings.mail_attempts
        logger.log(
            logging.ERROR if for_good else logging.WARNING,
            "mail %s was not sent at try %d%s: %s",
            mail.id,
            mail.attempts,
            ", and is parked" if for_good else "",
            failed,
        )
        await self._database.execute(_query("mail_failed"), mail.id, str(failed), for_good)

    async def tidy(self) -> None:
        """Set aside what has waited for too long, and drop what is over, a bounded number of each. Raises
        `DatabaseError`."""
        await self._database.value(_query("mail_expire"), STALE_S, FORGET_ROWS)
        await self._database.value(_query("mail_forget"), self._settings.mail_retention_days, FORGET_ROWS)
        await self._codes.forget()


class ConsoleSender:
    """Shows mails where the gateway was started from, for development."""

    async def send(self, mail: Mail) -> None:
        """Write a mail to stderr."""
        text = "\n".join(f"  | {line}" for line in mail.body.rstrip().splitlines())
        print(f"A mail to {mail.recipient}: {mail.subject}\n{text}", file=sys.stderr, flush=True)


@asynccontextmanager
async def to_console() -> AsyncIterator[Sender]:
    """Yield what shows mails instead of sending them."""
    yield ConsoleSender()


@dataclass(frozen=True, slots=True)
class Smtp:
    """A mail server. Port 465 is TLS from the start; elsewhere TLS begins where the server offers it. `password` is
    sent over TLS alone, but to this machine. Connecting and each mail take `timeout_s` at most. `tls` is what
    certificates are checked by.

    Raises `ValueError` for a time that is too long for `FIRST_PAUSE_S`."""

    host: str
    port: int
    sender: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout_s: float = 20.0
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s < FIRST_PAUSE_S / 2:
            raise ValueError(f"timeout_s must be above zero and below {FIRST_PAUSE_S / 2}")

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Sender]:
        """Yield a connection to send mails over. Raises `MailFailed`."""
        implicit = self.port == IMPLICIT_TLS_PORT
        client = aiosmtplib.SMTP(
            hostname=self.host,
            port=self.port,
            use_tls=implicit,
            start_tls=False,
            timeout=self.timeout_s,
            tls_context=self.tls,
        )
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._open(client, implicit)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            client.close()
            raise MailFailed(f"{self.host}:{self.port}: {_reason(error)}") from error
        try:
            yield SmtpSender(client, self.sender, self.timeout_s)
            try:
                await client.quit()
            except (aiosmtplib.SMTPException, OSError):
                logger.debug("%s was not told good-bye", self.host)
        finally:
            client.close()

    async def _open(self, client: aiosmtplib.SMTP, secure: bool) -> None:
        await client.connect()
        await client.ehlo()
        if not secure and client.supports_extension("starttls"):
            await client.starttls(tls_context=self.tls)
            await client.ehlo()
            secure = True
        if self.user is not None and self.password is not None:
            if not secure and not is_this_machine(self.host):
                raise MailFailed(f"{self.host}:{self.port} offers no TLS: SMTP_PASSWORD is not sent to it")
            await client.login(self.user, self.password)


class SmtpSender:
    """Sends mails over one connection of SMTP."""

    def __init__(self, client: aiosmtplib.SMTP, sender: str, timeout_s: float) -> None:
        self._client, self._sender, self._timeout_s = client, sender, timeout_s

    async def send(self, mail: Mail) -> None:
        """Send a mail. Raises `MailFailed`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.send_message(message_of(mail, self._sender), sender=self._sender)
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _of_mail(error.recipients[0]) from error
        except (aiosmtplib.SMTPRecipientRefused, aiosmtplib.SMTPDataError) as error:
            raise _of_mail(error) from error
        except ValueError as error:  # what can't be written as a mail never can
            raise MailFailed(_reason(error), of_mail=True, for_good=True) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise MailFailed(_reason(error)) from error


def _of_mail(error: aiosmtplib.SMTPResponseException) -> MailFailed:
    """Return the failure of this one mail, from a server's reply."""
    return MailFailed(_reason(error), of_mail=True, for_good=error.code in _FOR_GOOD)


def message_of(mail: Mail, sender: str) -> EmailMessage:
    """Return a mail as it is sent. Raises `ValueError` for a header that is none."""
    message = EmailMessage(policy=CRLF)
    message["From"] = formataddr((SERVICE, sender))
    message["To"] = mail.recipient
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(mail.created_at)
    message["Message-ID"] = f"<{mail.id}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.body)
    return message


def _reason(error: Exception) -> str:
    """Return what an error says, in one line. Replies of servers name addresses and no secret."""
    return " ".join(f"{type(error).__name__}: {error}".split())
