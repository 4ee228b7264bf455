"""What the gateway itself sends elsewhere: questions to other issuers over HTTP, and mails.

Questions are bounded in time and size, follow no redirects and go by the environment's proxies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import aiohttp

from billing.identity.issuers import IssuerAway, IssuerRefused
from billing.identity.mailer import Smtp, to_console

if TYPE_CHECKING:
    from billing.identity.mailer import Delivery
    from gateway.config.settings import Settings

_JSON: Final = {"Accept": "application/json", "User-Agent": "metergate"}


class Outgoing:
    """An `Ask`: connections are opened as they are needed, and closed with it."""

    def __init__(self, timeout_s: float, answer_bytes: int) -> None:
        self._timeout, self._answer_bytes = aiohttp.ClientTimeout(total=timeout_s), answer_bytes
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def __call__(
        self, url: str, *, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Return the body of an answer with the status 200. Raises `IssuerAway` and `IssuerRefused`, whose messages say
        nothing of what was asked or answered."""
        if self._session is None:
            jar = aiohttp.DummyCookieJar()
            self._session = aiohttp.ClientSession(timeout=self._timeout, trust_env=True, cookie_jar=jar)
        method, sent = "GET" if form is None else "POST", {**_JSON, **(headers or {})}
        try:
            async with self._session.request(method, url, data=form, headers=sent, allow_redirects=False) as response:
                body = await response.content.read(self._answer_bytes + 1)
                while len(body) <= self._answer_bytes and (more := await response.content.read(self._answer_bytes)):
                    body += more
                if response.status == 200 and len(body) <= self._answer_bytes:
                    return body
                if 400 <= response.status < 500:
                    raise IssuerRefused(f"The issuer of sign-ins has refused (status {response.status}).")
                why = f"status {response.status}" if response.status != 200 else "an answer that is too large"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            why = type(error).__name__
        raise IssuerAway(f"The issuer of sign-ins does not answer as it should ({why}); try again.")


def mail_delivery(settings: Settings, *, console: bool) -> Delivery | None:
    """Return what sends mails: the mail server, else the console, where there is one, else nothing."""
    if settings.smtp_host is None:
        return to_console if console else None
    return Smtp(
        settings.smtp_host,
        settings.smtp_port,
        settings.smtp_from or "",
        settings.smtp_user,
        settings.smtp_password.reveal() if settings.smtp_password is not None else None,
        settings.defaults.mail_timeout_s,
    )
