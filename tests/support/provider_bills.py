"""Stand-ins of the providers' APIs of usage and costs, one server for all three, shaped after their references.

OpenAI      https://platform.openai.com/docs/api-reference/usage (usage/completions, usage/embeddings, costs): buckets
            of a day by Unix seconds, at most `limit` of them on a page, `has_more`, `next_page`, USD as numbers
Anthropic   https://docs.claude.com/en/api/usage-cost-api: buckets of a day by RFC 3339, the same pages, amounts as
            decimal strings in cents
OpenRouter  https://openrouter.ai/docs/api-reference/analytics/get-user-activity: one day, no pages, numbers in USD
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from billing.provider_bills.lines import BASE_URLS, SourceName

KEY = "sk-admin-of-the-tests"


@dataclass
class BillingApis:
    """What they answer: results by path and day, as text of JSON where a number is to be written as it stands.
    `page_days` is how many buckets a page has; `failures` are statuses that come first."""

    results: dict[tuple[str, date], list[Any]] = field(default_factory=dict)
    page_days: int = 31
    order: Callable[[list[Any]], list[Any]] = list
    failures: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def base_url(self, source: SourceName) -> str:
        """The base URL of one of them."""
        return BASE_URLS[source].replace("https://", f"{self.url}/")

    def add(self, path: str, day: date, *results: Any) -> None:
        """Have results in the bucket of a day."""
        self.results.setdefault((path, day), []).extend(results)

    async def answer(self, request: web.Request) -> web.Response:
        """One page."""
        host, _, path = request.path.removeprefix("/").partition("/")
        self.asked.append(path)
        if self.failures:
            return web.json_response({"error": {}}, status=self.failures.pop(0))
        shown = request.headers.get("x-api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")
        if shown != KEY:
            return web.json_response({"error": {"message": f"Incorrect API key {shown}"}}, status=401)
        if host == "openrouter.ai":
            day = date.fromisoformat(request.query["date"])
            return _page({"data": self.order(self.results.get((path, day), []))})
        if host == "api.anthropic.com":
            assert request.headers["anthropic-version"] == "2023-06-01"
            since, until = (datetime.fromisoformat(request.query[name]) for name in ("starting_at", "ending_at"))
        else:
            since, until = (
                datetime.fromtimestamp(int(request.query[name]), UTC) for name in ("start_time", "end_time")
            )
        assert 1 <= int(request.query["limit"]) <= 31
        first, days = int(request.query.get("page", "page_0").removeprefix("page_")), (until - since).days
        last = min(first + self.page_days, days)
        buckets = [self._bucket(host, path, since + timedelta(days=place)) for place in range(first, last)]
        more = last < days
        page = {"data": self.order(buckets), "has_more": more, "next_page": f"page_{last}" if more else None}
        return _page(page if host == "api.anthropic.com" else {"object": "page", **page})

    def _bucket(self, host: str, path: str, at: datetime) -> dict[str, Any]:
        results, ends = self.order(self.results.get((path, at.date()), [])), at + timedelta(days=1)
        if host == "api.anthropic.com":
            return {"starting_at": f"{at:%FT%TZ}", "ending_at": f"{ends:%FT%TZ}", "results": results}
        times = {"start_time": int(at.timestamp()), "end_time": int(ends.timestamp())}
        return {"object": "bucket", **times, "results": results}


def tokens(model: str, key: str | None, given: int, out: int, requests: int = 1) -> dict[str, Any]:
    """A result of OpenAI's usage/completions."""
    counted = {"input_tokens": given, "input_cached_tokens": 0, "output_tokens": out, "num_model_requests": requests}
    bucket = {"model": model, "api_key_id": key, "project_id": None, "user_id": None, "batch": None}
    return {"object": "organization.usage.completions.result", **counted, **bucket}


def cost(line_item: str, value: str, key: str | None = None) -> dict[str, Any]:
    """A result of OpenAI's costs; `value` is written as a number."""
    amount = {"value": json.loads(value, parse_float=_Written), "currency": "usd"}
    bucket = {"line_item": line_item, "api_key_id": key, "project_id": None}
    return {"object": "organization.costs.result", "amount": amount, **bucket}


class _Written(float):
    """A number that JSON has as it was written, with all its decimals."""

    text: str

    def __new__(cls, text: str) -> _Written:
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __repr__(self) -> str:
        return self.text


def _page(content: Any) -> web.Response:
    return web.Response(body=_text(content).encode(), content_type="application/json")


def _text(content: Any) -> str:
    match content:
        case dict():
            return "{" + ",".join(f"{json.dumps(name)}:{_text(value)}" for name, value in content.items()) + "}"
        case list():
            return "[" + ",".join(map(_text, content)) + "]"
        case _Written():
            return content.text
    return json.dumps(content)


@asynccontextmanager
async def billing_apis() -> AsyncIterator[BillingApis]:
    """The stand-ins on a port of their own."""
    apis, app = BillingApis(), web.Application()
    app.router.add_get("/{path:.*}", apis.answer)
    async with TestServer(app) as server:
        apis.url = str(server.make_url("")).rstrip("/")
        yield apis
