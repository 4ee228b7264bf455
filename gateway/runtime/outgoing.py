"""What the gateway itself sends elsewhere: questions to other issuers over HTTP, notices to endpoints, and mails.

Questions are bounded in time and size, follow no redirects and go by the environment's proxies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import aiohttp

from billing.identity.issuers import IssuerAway, IssuerRefused
from billing.identity.mailer import Mailer, Smtp, to_console
from billing.notices.delivery import Poster
from billing.notices.worker import NoticeRules, NoticeWorker, OperatorHook
from billing.pages import new_id
from gateway.config.secret import revealed
from gateway.config.settings import MAIL_CONSOLE_VARIABLE

if TYPE_CHECKING:
    from billing.identity.mailer import Delivery
    from gateway.config.settings import Settings
    from gateway.metrics.registry import Metrics
    from gateway.runtime.runtime import Runtime


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
        revealed(settings.smtp_password),
        settings.defaults.mails.mail_timeout_s,
    )


def delivery_here(settings: Settings) -> Delivery | None:
    """Return what sends mails of this process's gateway; only `metergate up` shows them on its console."""
    return mail_delivery(settings, console=os.environ.get(MAIL_CONSOLE_VARIABLE) == "1")


def start_notices(runtime: Runtime, metrics: Metrics) -> None:
    """Start telling notices, in the background."""
    settings, defaults = runtime.settings, runtime.settings.defaults
    to_customers = Poster(
        private=defaults.webhooks.webhook_private_addresses, timeout_s=defaults.webhooks.webhook_timeout_s
    )
    to_operators = Poster(private=True, timeout_s=defaults.webhooks.webhook_timeout_s)
    url, secret = settings.notification_webhook, settings.notification_webhook_secret
    hook = OperatorHook(url.reveal(), to_operators, revealed(secret)) if url else None
    rules = NoticeRules(
        defaults.webhooks.webhook_attempts,
        disable_s=defaults.webhooks.webhook_disable_s,
        kept_days=defaults.webhooks.notice_retention_days,
    )
    worker = NoticeWorker(runtime.database, to_customers, hook, rules, new_id, new_id())
    metrics.gauge(
        "notices_waiting", "Notices and deliveries that are to be sent.", lambda: worker.standing.waiting, "max"
    )
    metrics.gauge("notices_parked", "Deliveries that were given up.", lambda: worker.standing.parked, "max")
    metrics.gauge(
        "notices_lag_seconds", "How long the oldest waiting notice has waited.", lambda: worker.standing.lag_s, "max"
    )
    runtime.start(*worker.work(runtime.engine.pending))


def start_mailer(runtime: Runtime, metrics: Metrics) -> None:
    """Start sending mails in the background."""
    settings = runtime.settings
    mails, delivery = settings.defaults.mails, delivery_here(settings)
    mailer = Mailer(runtime.database, runtime.people.codes, delivery, mails, new_id())
    metrics.gauge("mails_waiting", "Mails that are to be sent.", lambda: mailer.standing.waiting, "max")
    metrics.gauge(
        "mails_parked", "Mails that were given up, and are kept for a while.", lambda: mailer.standing.parked, "max"
    )
    metrics.gauge(
        "mail_lag_seconds", "How long the oldest waiting mail has waited.", lambda: mailer.standing.lag_s, "max"
    )
    runtime.start(*mailer.work(runtime.engine.pending))
