"""What a notice looks like where it is sent: JSON of our own, or what Slack, Microsoft Teams and PagerDuty take. Pure.

json         {id, type, timestamp, account_id, data}, signed by Standard Webhooks
slack        text with a heading (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks)
teams        an Adaptive Card (https://adaptivecards.io/explorer), which the Workflows app takes
pagerduty    an event of the Events API v2 (https://developer.pagerduty.com/docs/events-api-v2/overview): what ends a
             trouble resolves the incident that its beginning has triggered
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

import msgspec

from billing.notices.mail_templates import FIELDS, NoticeType, wording_of
from billing.times import rfc3339

Format = Literal["json", "slack", "teams", "pagerduty"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
SOURCE: Final = "metergate"
# How urgent PagerDuty takes a notice for; others are "warning".
_SEVERITIES: Final[Mapping[str, str]] = {
    "trouble.began": "error",
    "payment.disputed": "error",
    "key.leaked": "critical",
    "payment.succeeded": "info",
    "key.created": "info",
    "key.revoked": "info",
    "test": "info",
}
MAX_VALUE: Final = 200
# PagerDuty's bounds.
MAX_SUMMARY: Final = 1024
MAX_DEDUP_KEY: Final = 255


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice as it is sent; `account_id` is empty for one about no account."""

    id: str
    type: NoticeType
    at: datetime
    account_id: str
    data: Mapping[str, Any]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Return what people are shown of its data."""
        facts = [(title, _shown(self.data[name])) for name, title in FIELDS.items() if self.data.get(name) is not None]
        return [("Account", self.account_id), *facts] if self.account_id else facts


def body_of(notice: Notice, format: Format = "json", routing_key: str | None = None) -> bytes:
    """Return the JSON body of a notice in a format. PagerDuty's has the routing key of the service that it is for."""
    match format:
        case "json":
            body = _own(notice)
        case "slack":
            body = _slack(notice)
        case "teams":
            body = _teams(notice)
        case "pagerduty":
            body = _pagerduty(notice, routing_key)
    return msgspec.json.encode(body)


def _own(notice: Notice) -> dict[str, object]:
    return {
        "id": notice.id,
        "type": notice.type,
        "timestamp": rfc3339(notice.at),
        "account_id": notice.account_id or None,
        "data": notice.data,
    }


def _slack(notice: Notice) -> dict[str, object]:
    heading, text = wording_of(notice.type, notice.data)
    lines = [f"*{_escaped(heading)}*", _escaped(text), *(f"{name}: {_escaped(said)}" for name, said in notice.facts)]
    return {"text": "\n".join(line for line in lines if line)}


def _escaped(text: str) -> str:
    """Return a text in which Slack sees no link and no mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _teams(notice: Notice) -> dict[str, object]:
    heading, text = wording_of(notice.type, notice.data)
    body: list[dict[str, object]] = [_block(heading, weight="Bolder", size="Medium")]
    if text:
        body.append(_block(text))
    if notice.facts:
        facts = [{"title": name, "value": _plain(said)} for name, said in notice.facts]
        body.append({"type": "FactSet", "facts": facts})
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
    return {"type": "message", "attachments": [attachment]}


def _block(text: str, **more: str) -> dict[str, object]:
    return {"type": "TextBlock", "text": _plain(text), "wrap": True, **more}


def _plain(text: str) -> str:
    """Return a text in which Teams sees no link: cards take Markdown."""
    return text.replace("[", "\\[")


def _pagerduty(notice: Notice, routing_key: str | None) -> dict[str, object]:
    heading, text = wording_of(notice.type, notice.data)
    about = notice.data.get("about")
    detail = str(notice.data.get("message") or text)
    payload = {
        "summary": f"{heading}: {detail}"[:MAX_SUMMARY] if detail else heading,
        "source": notice.account_id or SOURCE,
        "severity": _SEVERITIES.get(notice.type, "warning"),
        "timestamp": rfc3339(notice.at),
        "custom_details": dict(notice.facts),
    }
    return {
        "routing_key": routing_key,
        "event_action": "resolve" if notice.type == "trouble.ended" else "trigger",
        "dedup_key": (notice.id if about is None else f"{SOURCE}:{about}")[:MAX_DEDUP_KEY],
        "payload": payload,
    }


def _shown(value: object) -> str:
    return " ".join(str(value).split())[:MAX_VALUE]
