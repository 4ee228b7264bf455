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
from contextlib import AsyncExitStack
from itertools import product
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.conftest import Customer, Gateway, Handler, MakeGateway

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
        self.own: Customer | None = None
        self._options = options

    async def upstream(self, handler: Handler) -> str:
        """Answer by this handler from now on."""
        self.handler = handler
        return self.url

    async def customer(self) -> Customer:
        """The customer of the story that is told, who has 5 USD."""
        self.own = self.own or await self.gateway.customer()
        return self.own

    async def make_gateway(self, url: str | None = None, **options: Any) -> Gateway:
        """Give the gateway; a story that needs other settings is a test of its own."""
        assert url in (None, self.url)
        assert options == self._options
        return self.gateway


Make = Callable[[OneGateway], Any]


@pytest.fixture
async def tell(
    make_gateway: MakeGateway, upstream: Upstream, subtests: pytest.Subtests, request: pytest.FixtureRequest
) -> Tell:
    """Tells stories, whatever becomes of the others, on a gateway with these options. `by` makes further options of the
    provider's URL, where that is not `openai`'s; `makers` make what a story asks for by their names, anew for each, and
    what has an end is ended; `after` is called after each. What else a story asks for is a fixture."""

    async def told(
        stories: Stories,
        by: Callable[[str], dict[str, Any]] | None = None,
        makers: dict[str, Make] | None = None,
        after: Callable[[Gateway], Awaitable[None]] | None = None,
        **options: Any,
    ) -> None:
        async def serve(asked: web.Request) -> web.StreamResponse:
            assert one.handler is not None
            return await one.handler(asked)

        url = await upstream(serve)
        one = OneGateway(url, **options, **(by(url) if by else {}))
        one.gateway = await make_gateway(url, **options, **(by(url) if by else {}))
        for story, case in stories.cases():
            one.own = None
            with subtests.test(story.__name__, **case), pytest.MonkeyPatch.context() as monkeypatch:
                given = {"gateway": one.gateway, "make_gateway": one.make_gateway, "upstream": one.upstream}
                given |= {**case, "monkeypatch": monkeypatch}
                async with AsyncExitStack() as stack:
                    await story(**await _wanted(story, given, one, makers or {}, request, stack))
                if after is not None:
                    await after(one.gateway)

    return told


async def _wanted(
    story: Story,
    given: dict[str, Any],
    one: OneGateway,
    makers: dict[str, Make],
    request: pytest.FixtureRequest,
    stack: AsyncExitStack,
) -> dict[str, Any]:
    """What a story asks for, by its names."""
    wanted = {}
    for name in inspect.signature(story).parameters:
        if name in makers:
            made = makers[name](one)
            made = await made if inspect.isawaitable(made) else made
            wanted[name] = await stack.enter_async_context(made) if hasattr(made, "__aenter__") else made
        else:
            wanted[name] = given[name] if name in given else request.getfixturevalue(name)
    return wanted
