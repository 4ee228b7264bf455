"""Tests that share a gateway: what costs most of a test of one request is its gateway.

    stories = Stories()

    @stories
    async def a_stream_passes(make_gateway: MakeGateway, upstream: Upstream) -> None: ...

    async def test_on_one_gateway(tell: Tell) -> None:
        await tell(stories)

A story is written as a test is: it asks for fixtures by name and may be parametrized. Its `make_gateway` and `upstream`
give the one gateway and the one provider's URL, which answers from then on as the story says. What it charges is on
accounts of its own. Each failure names its story.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterator
from itertools import product
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.conftest import Gateway, Handler, MakeGateway

Story = Callable[..., Awaitable[None]]
Tell = Callable[..., Awaitable[None]]
Upstream = Callable[[Handler], Awaitable[str]]


class Stories(list[Story]):
    """What is told on one gateway, in the order that it stands in."""

    def __call__(self, story: Story) -> Story:
        """Add a story; a decorator."""
        self.append(story)
        return story

    def cases(self) -> Iterator[tuple[Story, dict[str, Any]]]:
        """Every story with each of its parameters."""
        for story in self:
            tables = [_table(mark) for mark in getattr(story, "pytestmark", ()) if mark.name == "parametrize"]
            for rows in product(*tables):
                yield story, {name: value for row in rows for name, value in row.items()}


def _table(mark: pytest.Mark) -> list[dict[str, Any]]:
    names = mark.args[0]
    if isinstance(names, str):
        return [{names: value} for value in mark.args[1]]
    return [dict(zip(names, values, strict=True)) for values in mark.args[1]]


class OneGateway:
    """A gateway and its one provider, whose answers each story scripts anew."""

    gateway: Gateway

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.handler: Handler | None = None
        self._options = options

    async def upstream(self, handler: Handler) -> str:
        """Answer by this handler from now on."""
        self.handler = handler
        return self.url

    async def make_gateway(self, url: str | None = None, **options: Any) -> Gateway:
        """Give the gateway; a story that needs other settings is a test of its own."""
        assert url in (None, self.url)
        assert options == self._options
        return self.gateway


@pytest.fixture
async def tell(
    make_gateway: MakeGateway, upstream: Upstream, subtests: pytest.Subtests, request: pytest.FixtureRequest
) -> Tell:
    """Tells stories, whatever becomes of the others, on a gateway with these options. `by` makes further options of the
    provider's URL, where that is not `openai`'s, and `makers` what takes a fixture's place that is made of
    `make_gateway` and `upstream`. What else a story asks for is a fixture."""

    async def told(
        stories: Stories,
        by: Callable[[str], dict[str, Any]] | None = None,
        makers: dict[str, Callable[[MakeGateway, Upstream], Any]] | None = None,
        **options: Any,
    ) -> None:
        async def serve(asked: web.Request) -> web.StreamResponse:
            assert one.handler is not None
            return await one.handler(asked)

        url = await upstream(serve)
        one = OneGateway(url, **options, **(by(url) if by else {}))
        one.gateway = await (make_gateway(**options, **by(url)) if by else make_gateway(url, **options))
        given = {"make_gateway": one.make_gateway, "upstream": one.upstream, "gateway": one.gateway}
        given |= {name: make(one.make_gateway, one.upstream) for name, make in (makers or {}).items()}
        for story, case in stories.cases():
            with subtests.test(story.__name__, **case), pytest.MonkeyPatch.context() as monkeypatch:
                known = {**given, **case, "monkeypatch": monkeypatch}
                wanted = inspect.signature(story).parameters
                await story(**{n: known[n] if n in known else request.getfixturevalue(n) for n in wanted})

    return told
