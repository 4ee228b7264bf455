"""A provider inside the process: answers by itself, without network, in OpenAI's and Anthropic's exact wire formats.
For trying things out and for tests that need no provider of their own; behind the same port as the real ones.

    generator what it says (deterministic words, numbers and vectors), and what it understands of a request
    openai    its answers in OpenAI's format; anthropic, gemini  in theirs

The same request gets the same text, as JSON and as a stream; ids and times come from the clock that is passed in. Usage
is counted by tiktoken with the vocabulary of the model that was asked for. `metadata.delay_ms` and
`metadata.chunk_delay_ms` in a request slow its answer down. Tools, `logprobs`, `echo`, `suffix` and `response_format`
are ignored: every answer is plain text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from billing.errors import StoreError
from gateway.upstream.base import (
    IteratedResponse,
    UpstreamCut,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.upstream.local import anthropic, gemini, openai
from gateway.upstream.local.anthropic import LocalAnthropic
from gateway.upstream.local.gemini import LocalGemini
from gateway.upstream.local.generator import Body, Call, Generator, Pace, RequestError
from gateway.upstream.local.openai import LocalOpenAI, LocalResponses, MemoryObjects, ObjectStore

if TYPE_CHECKING:
    from gateway.tokens import Tokenizer
    from gateway.upstream.base import RawHeaders

TIMEOUT_S = 600.0
_RESPONSES = ("/v1/responses", "/v1/conversations")
EVENTS_PER_TURN = 16  # without a delay, the event loop gets its turn after that many chunks


class _Api(Protocol):
    async def answer(self, call: Call) -> Body: ...


class LocalResponse(IteratedResponse):
    """An answer made here: its pieces are made one by one as they are asked for."""

    of = "local"

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        pieces: Iterable[bytes],
        chunk_delay_s: float = 0.0,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        super().__init__()
        self._status = status
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._events = iter(pieces)
        self._chunk_delay_s = chunk_delay_s
        self._timeout_s = timeout_s
        self._released = False

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return self._status

    @property
    def headers(self) -> RawHeaders:
        """Return the head, as OpenAI's would be."""
        return self._headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield one event at a time, after its delay. Raises `UpstreamTimeout`, and `UpstreamCut` after `release`."""
        number = 0
        while not self._released:
            event = next(self._events, None)
            if event is None:
                return
            if number and self._chunk_delay_s:
                await _silence(self._chunk_delay_s, self._timeout_s)
            elif number and number % EVENTS_PER_TURN == 0:
                await asyncio.sleep(0)
            number += 1
            yield event
        raise UpstreamCut("local: the answer was released before its end")

    def release(self) -> None:
        """Stop making events."""
        self._released = True


@dataclass(frozen=True, slots=True)
class PendingAnswer:
    """An answer that nobody waits for any more; a `base.Pending`. The same request gets the same text: it is made
    again."""

    transport: "LocalTransport"
    request: UpstreamRequest

    async def head(self) -> LocalResponse:
        """Return the answer, after its delay. Raises `UpstreamTimeout`."""
        return await self.transport.send(self.request)

    def release(self) -> None:
        """Do nothing: nothing is held."""


class LocalTransport:
    """The local provider as a transport. Only the path and the query of a request's URL count; its headers are
    not looked at."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        now: Callable[[], float] = time.time,
        delay_ms: int = 0,
        chunk_delay_ms: int = 0,
        timeout_s: float = TIMEOUT_S,
        store: ObjectStore | None = None,
    ) -> None:
        """`tokenizer` is loaded; `now` gives seconds since 1970; `timeout_s` is the longest silence; `store` has what
        other processes should read as well."""
        self._now = now
        self._pace = Pace(delay_ms, chunk_delay_ms)
        self._timeout_s = timeout_s
        generator = Generator(tokenizer)
        self._openai = LocalOpenAI(generator)
        self._anthropic = LocalAnthropic(generator)
        self._gemini = LocalGemini(generator)
        self._responses = LocalResponses(generator, now, store or MemoryObjects())

    async def send(self, request: UpstreamRequest) -> LocalResponse:
        """Return the answer's head, after its delay; a bad request's is a 4xx. Raises `UpstreamTimeout`."""
        started_s = self._now()
        answer_id = blake2b(request.body + repr(started_s).encode(), digest_size=12).hexdigest()
        headers = {"Content-Type": "application/json", "x-request-id": f"req_{answer_id}"}
        url = urlsplit(request.url)
        call = Call(request.method, url.path, url.query, request.body, answer_id, started_s, self._pace)
        api, error_answer = self._api(url.path)
        try:
            made = await api.answer(call)
        except StoreError as error:
            raise UpstreamUnreachable("local: what is kept can't be reached") from error
        except RequestError as error:
            return LocalResponse(error.status, headers, (error_answer(error),))
        pace = made.pace
        if pace.delay_ms:
            try:
                await _silence(pace.delay_ms / 1_000, self._timeout_s)
            except asyncio.CancelledError:
                request.pending = PendingAnswer(self, request)
                raise
        headers["openai-processing-ms"] = str(max(0, round((self._now() - started_s) * 1_000)))
        if made.stream:
            headers["Content-Type"] = "text/event-stream; charset=utf-8"
        return LocalResponse(200, headers, made.pieces, pace.chunk_delay_ms / 1_000, self._timeout_s)

    async def close(self) -> None:
        """Do nothing: nothing is held, and the tokenizer is its maker's to close."""

    def _api(self, path: str) -> tuple[_Api, Callable[[RequestError], bytes]]:
        """Return what answers at a path, and how it writes a refusal."""
        if gemini.PATH.fullmatch(path) is not None:
            return self._gemini, gemini.error_answer
        if path.startswith(_RESPONSES):
            return self._responses, openai.error_answer
        if path.startswith(anthropic.MESSAGES):
            return self._anthropic, anthropic.error_answer
        return self._openai, openai.error_answer


async def _silence(silence_s: float, timeout_s: float) -> None:
    await asyncio.sleep(min(silence_s, timeout_s))
    if silence_s > timeout_s:
        raise UpstreamTimeout(f"local: silent for {timeout_s:g} s")
