"""What a serving gateway tells, by the settings: notices to endpoints and to NOTIFICATION_WEBHOOK, and mails."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from billing.identity.mailer import Mailer, MailRules
from billing.notices.destinations import Poster
from billing.notices.worker import NoticeRules, NoticeWorker, OperatorHook
from gateway.config.identity import MAIL_CONSOLE_VARIABLE
from gateway.outgoing import mail_delivery

if TYPE_CHECKING:
    from gateway.metrics.registry import Metrics
    from gateway.runtime import Runtime


def start_notices(runtime: Runtime, metrics: Metrics, new_id: Callable[[], str]) -> None:
    """Start telling notices, in the background."""
    settings, defaults = runtime.settings, runtime.settings.defaults
    to_customers = Poster(private=defaults.webhook_private_addresses, timeout_s=defaults.webhook_timeout_s)
    to_operators = Poster(private=True, timeout_s=defaults.webhook_timeout_s)
    url, secret = settings.notification_webhook, settings.notification_webhook_secret
    hook = OperatorHook(url.reveal(), to_operators, None if secret is None else secret.reveal()) if url else None
    rules = NoticeRules(
        defaults.webhook_attempts, disable_s=defaults.webhook_disable_s, kept_days=defaults.notice_retention_days
    )
    worker = NoticeWorker(runtime.database, to_customers, hook, rules, new_id, new_id())
    metrics.gauge("notices_waiting", "Notices and deliveries that are to be sent.", lambda: worker.waiting, "max")
    metrics.gauge("notices_parked", "Deliveries that were given up.", lambda: worker.parked, "max")
    metrics.gauge("notices_lag_seconds", "How long the oldest waiting notice has waited.", lambda: worker.lag_s, "max")
    runtime.engine.loops.start("notices", worker.run)


def start_mailer(runtime: Runtime, metrics: Metrics, new_id: Callable[[], str]) -> None:
    """Start sending mails in the background."""
    defaults = runtime.settings.defaults
    rules = MailRules(defaults.mail_attempts, defaults.mail_retention_days)
    delivery = mail_delivery(runtime.settings, console=os.environ.get(MAIL_CONSOLE_VARIABLE) == "1")
    mailer = Mailer(runtime.database, runtime.people.codes, delivery, rules, new_id())
    metrics.gauge("mails_waiting", "Mails that are to be sent.", lambda: mailer.waiting, "max")
    metrics.gauge("mails_parked", "Mails that were given up, and are kept for a while.", lambda: mailer.parked, "max")
    metrics.gauge("mail_lag_seconds", "How long the oldest waiting mail has waited.", lambda: mailer.lag_s, "max")
    runtime.engine.loops.start("mail", mailer.run)
