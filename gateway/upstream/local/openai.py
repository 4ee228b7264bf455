"""How the local provider answers in OpenAI's format: chats, completions, embeddings, moderations; and Cohere's reranks.

A moderation flags nothing. A rerank orders documents by the share of the query's words that they have.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import msgspec

from gateway.tokens import Tokenizer, vocabulary_for
from gateway.upstream.local import request, wire
from gateway.upstream.local.request import Fields, Generation, RequestError, Text
from gateway.upstream.local.wire import Choice, compose, question_of, say, vector

CHOICES_PER_TURN: Final = 8
"""Texts or vectors that are made before the event loop gets its turn."""
Body = tuple[Iterator[bytes], bool]
"""A successful answer's body, and whether it is a stream."""
CATEGORIES: Final = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm"),
    *("self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic"),
)
INPUTS_MAX: Final = 2_048
DOCUMENTS_MAX: Final = 10_000
DOCUMENTS_PER_SEARCH: Final = 100
MODERATION_DEFAULT: Final = "omni-moderation-latest"
_WORD: Final = re.compile(r"\w+")
_SCORE: Final = 1e-6


class LocalOpenAI:
    """Answers requests by their path: each of `endpoints` takes the fields of a body and the answer's id. `now` gives
    seconds since 1970. They raise `RequestError`."""

    def __init__(self, tokenizer: Tokenizer, now: Callable[[], float]) -> None:
        self._tokenizer = tokenizer
        self._now = now
        self.endpoints: dict[str, Callable[[Fields, str], Awaitable[Body]]] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._complete,
            "/v1/embeddings": self._embed,
            "/v1/moderations": self._moderate,
            "/v1/rerank": self._rerank,
        }

    async def _chat(self, fields: Fields, answer_id: str) -> Body:
        messages = fields.messages()
        asked = request.chat_generation(fields)
        vocabulary = vocabulary_for(asked.model)
        prompt_tokens = await self._tokenizer.count_chat_messages_off_loop(messages, vocabulary)
        choices = await self._choices(asked, vocabulary, msgspec.json.encode(messages), question_of(messages))
        counted = wire.usage(prompt_tokens, sum(choice.tokens for choice in choices))
        envelope = wire.chat_envelope(answer_id, int(self._now()), asked.model, asked.service_tier)
        if asked.stream:
            return wire.chat_events(envelope, choices, counted if asked.include_usage else None), True
        return iter((wire.chat_answer(envelope, choices, counted),)), False

    async def _complete(self, fields: Fields, answer_id: str) -> Body:
        asked = request.completion_generation(fields)
        vocabulary = vocabulary_for(asked.model)
        choices: list[Choice] = []
        prompt_tokens = completion_tokens = 0
        for prompt in fields.texts("prompt", request.PROMPTS_MAX):
            prompt_tokens += await self._count(prompt, vocabulary)
            question = prompt if isinstance(prompt, str) else ""
            candidates = await self._choices(asked, vocabulary, msgspec.json.encode(prompt), question)
            completion_tokens += sum(choice.tokens for choice in candidates)
            choices += candidates[: asked.n]
        counted = wire.usage(prompt_tokens, completion_tokens)
        envelope = wire.completion_envelope(answer_id, int(self._now()), asked.model)
        if asked.stream:
            events = wire.completion_events(envelope, choices, counted if asked.include_usage else None)
            return events, True
        return iter((wire.completion_answer(envelope, choices, counted),)), False

    async def _embed(self, fields: Fields, answer_id: str) -> Body:
        asked = request.embedding(fields)
        vocabulary = vocabulary_for(asked.model)
        items: list[bytes] = []
        tokens = 0
        for index, text in enumerate(asked.inputs):
            tokens += await self._count(text, vocabulary)
            values = vector(msgspec.json.encode(text), asked.dimensions)
            items.append(wire.embedding_item(index, values, asked.base64))
            if index % CHOICES_PER_TURN == CHOICES_PER_TURN - 1:
                await asyncio.sleep(0)
        return iter((wire.embedding_answer(asked.model, items, tokens),)), False

    async def _moderate(self, fields: Fields, answer_id: str) -> Body:
        return iter((moderation_answer(fields, answer_id),)), False

    async def _rerank(self, fields: Fields, answer_id: str) -> Body:
        return iter((rerank_answer(fields, answer_id),)), False

    async def _choices(self, asked: Generation, vocabulary: str, seed: bytes, question: str) -> list[Choice]:
        """Return `best_of` choices; equal texts (numbers that were asked for) are counted once."""
        by_text: dict[str, Choice] = {}
        choices: list[Choice] = []
        for index in range(asked.best_of):
            text = compose(seed, index, question)
            if text not in by_text:
                by_text[text] = say(self._tokenizer, vocabulary, text, asked.max_tokens, asked.stop)
            choices.append(by_text[text])
            if index % CHOICES_PER_TURN == CHOICES_PER_TURN - 1:
                await asyncio.sleep(0)
        return choices

    async def _count(self, text: Text, vocabulary: str) -> int:
        if isinstance(text, str):
            return await self._tokenizer.count_off_loop(text, vocabulary)
        return len(text)


def moderation_answer(fields: Fields, answer_id: str) -> bytes:
    """Return a `moderation` of each input; the parts of one message are one. Raises `RequestError`."""
    given = fields.required("input")
    if isinstance(given, list) and all(isinstance(each, dict) for each in given):
        count = 1
    else:
        count = len(fields.texts("input", INPUTS_MAX))
    result = {
        "flagged": False,
        "categories": dict.fromkeys(CATEGORIES, False),
        "category_scores": dict.fromkeys(CATEGORIES, _SCORE),
        "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
    }
    model = fields.get("model") or MODERATION_DEFAULT
    return msgspec.json.encode({"id": f"modr-{answer_id}", "model": model, "results": [result] * count})


def rerank_answer(fields: Fields, answer_id: str) -> bytes:
    """Return the documents' places in order, as Cohere's v2 does, and the searches billed. Raises `RequestError`."""
    fields.model()
    query, documents = fields.required("query"), fields.required("documents")
    if not isinstance(query, str) or not isinstance(documents, list) or not documents:
        raise RequestError("A rerank takes a 'query', which is a text, and 'documents', an array.", param="documents")
    if len(documents) > DOCUMENTS_MAX:
        raise RequestError(f"A rerank takes at most {DOCUMENTS_MAX} documents.", param="documents")
    words = set(_words(query))
    scores = [_score(words, document) for document in documents]
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    most = fields.integer("top_n", 1) or fields.integer("top_k", 1) or len(order)
    searches = -(-len(documents) // DOCUMENTS_PER_SEARCH)
    return msgspec.json.encode(
        {
            "id": f"rerank-{answer_id}",
            "results": [{"index": index, "relevance_score": scores[index]} for index in order[:most]],
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": searches}},
        }
    )


def _score(words: set[str], document: object) -> float:
    text = document if isinstance(document, str) else msgspec.json.encode(document).decode()
    return round(len(words & set(_words(text))) / max(1, len(words)), 6)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
