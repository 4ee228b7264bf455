"""Reranks: what a request may cost, and what its answer says that it did.

Sources: https://docs.cohere.com/reference/rerank (v2), https://docs.voyageai.com/reference/reranker-api,
https://jina.ai/reranker. All take `{model, query, documents}`, and each has options of its own, which pass.

This file owns both units and their bounds. Cohere bills searches: a query with up to 100 documents, where a document
that is longer than 500 tokens together with the query is cut into several. Voyage, Jina and vLLM bill tokens: the
query's once for each document, and the documents'. A price row says which: `per_unit: {search: ...}`, or `per_million:
{input: ...}`. An answer that says neither is one search, or is counted as input. Documents are texts, or objects of
texts: a picture has no bound here and is refused.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT, Usage
from gateway.dialects.base import TRIAL_TEXT, Changes, Trial
from gateway.dialects.body import (
    ITEMS,
    MAX_MODEL_CHARS,
    NULL,
    BadRequest,
    check_value,
    decoded,
    decoded_answer,
    first_byte,
    folded,
    more_items,
    other_case,
    read_objects,
    request_fields,
    text,
    too_many,
    wrong_type,
)
from gateway.dialects.declarations import Endpoint
from gateway.dialects.facts import ParsedRequest, Reported, Work
from gateway.dialects.openai.dialect import OpenAIDialect, rewrite
from gateway.dialects.output import NO_OUTPUT
from gateway.dialects.rerank import RERANKS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.dialects.base import Head, Match
    from gateway.dialects.output import Inline, Output

RERANK: Final = "/rerank"
PATHS: Final = ("/v1/rerank", "/v2/rerank")
DOCUMENTS_PER_SEARCH: Final = 100
# Of a document and the query together, beyond which Cohere counts it as several documents.
TOKENS_PER_DOCUMENT: Final = 500
# The most that a model's template adds to one pair of query and document.
PAIR_TOKENS: Final = 64
METERING_FIELDS: Final = frozenset({"model", "query", "documents"})
_MEANT: Final = {folded(name): name for name in METERING_FIELDS}
# Members of a document, as `folded` has them, that are no text.
_PICTURES: Final = frozenset({"image", "images", "imageurl", "bytes", "video", "audio", "content"})
_FIELD_LEVEL: Final = 1


class _BilledUnits(msgspec.Struct):
    search_units: Raw = NULL


class _Meta(msgspec.Struct):
    billed_units: _BilledUnits | None = None


class _Tokens(msgspec.Struct):
    total_tokens: int | None = None


class _Answer(msgspec.Struct):
    meta: Raw = NULL
    usage: Raw = NULL
    model: Raw = NULL


_ANSWER: Final = msgspec.json.Decoder(_Answer)
_META: Final = msgspec.json.Decoder(_Meta)
_TOKENS: Final = msgspec.json.Decoder(_Tokens, strict=False)


class RerankDialect(OpenAIDialect):
    """Reranks; a `Dialect`. Keys and errors are as OpenAI's."""

    name = "rerank"
    declared = RERANKS
    endpoints = tuple(Endpoint(path, RERANK, writes=False) for path in PATHS)
    kept_parameters = METERING_FIELDS
    trials = (Trial(PATHS[0], {"query": TRIAL_TEXT, "documents": ["OK"]}, writes=False),)

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        """Return that none is: OpenAI's dialect answers for its paths."""
        return False

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        """Return what a rerank asks for at most. Raises `BadRequest`."""
        bounds = self._bounds
        fields = request_fields(body, bounds)
        for name, raw in fields.items():
            if name not in METERING_FIELDS and (meant := _MEANT.get(folded(name))):
                raise other_case(meant)
            check_value(raw, bounds, _FIELD_LEVEL, name)
        model, query = _text(fields, "model"), _text(fields, "query")
        if not 1 <= len(model) <= MAX_MODEL_CHARS:
            raise BadRequest(f"Invalid value for 'model': expected 1 to {MAX_MODEL_CHARS} characters.", "model")
        documents, query_bytes = self._documents(fields), len(query.encode())
        chunks = documents + len(body) // max(1, TOKENS_PER_DOCUMENT - query_bytes)
        return ParsedRequest(
            operation=RERANK,
            model=model,
            input_bound_tokens=len(body) + documents * (query_bytes + PAIR_TOKENS),
            work=Work(search_units=-(-chunks // DOCUMENTS_PER_SEARCH)),
        )

    def _documents(self, fields: Mapping[str, Raw]) -> int:
        """Return how many documents there are. Raises `BadRequest` where one of them is no text."""
        raw = fields.get("documents")
        if raw is None or first_byte(raw) != ord("["):
            raise wrong_type("documents", "an array of texts")
        if more_items(raw, self._bounds.messages):
            raise too_many("documents", self._bounds.messages, "documents")
        items = ITEMS.decode(raw)
        if all(first_byte(item) == ord('"') for item in items):
            return max(1, len(items))
        objects = read_objects(raw, "documents", frozenset())
        if objects is None:
            raise wrong_type("documents", "an array of texts, or of objects of texts")
        for names in objects:
            for name, value in names.items():
                if folded(name) in _PICTURES or first_byte(value) in b"{[":
                    raise BadRequest(f"Documents are texts here: leave '{name[:MAX_MODEL_CHARS]}' out.", "documents")
        return max(1, len(objects))

    def texts(self, body: bytes) -> list[tuple[str, int]]:
        """Return none: the query is read once for each document."""
        return []

    def input_tokens(self, body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
        """Return the documents, and the query once for each of them."""
        fields: dict[str, Any] = msgspec.json.decode(body)
        documents = fields["documents"]
        texts = [each if isinstance(each, str) else msgspec.json.encode(each).decode() for each in documents]
        return sum(map(count, texts)) + count(fields["query"]) * max(1, len(texts)), []

    def upstream_path(self, match: Match, model: str) -> str:
        """Return what follows a base URL, which has the version: `https://api.cohere.com/v2`,
        `https://api.voyageai.com/v1`."""
        return RERANK

    def rewrite(self, body: bytes, changes: Changes) -> bytes:
        """Return the body with the model's name changed."""
        return rewrite(body, Changes(model=changes.model))

    def usage_from_json(self, operation: str, body: bytes) -> Reported | None:
        """Return searches, tokens or both, as far as an answer reports them. Raises `GarbageAnswer`."""
        answer = decoded_answer(_ANSWER, body)
        searches, tokens = _searches(answer.meta), _tokens(answer.usage)
        if searches is None and tokens is None:
            return None
        return Reported(Usage(input_tokens=tokens or 0, searches=searches or 0))

    def output(self, body: bytes) -> Output:
        """Return that nothing is written."""
        return NO_OUTPUT

    def output_of_part(self, part: bytes) -> Output:
        """Return that nothing is written."""
        return NO_OUTPUT


def _text(fields: Mapping[str, Raw], name: str) -> str:
    if name not in fields:
        raise BadRequest(f"Missing required parameter: '{name}'.", name)
    return text(fields[name], name)


def _searches(raw: Raw) -> int | None:
    """Return searches billed, which Cohere writes as a decimal; a part of one is one. None where it says none that can
    be."""
    meta = decoded(_META, raw)
    if meta is None or meta.billed_units is None:
        return None
    try:
        units = Decimal(bytes(meta.billed_units.search_units).decode())
        return int(units.to_integral_value(ROUND_CEILING)) if 0 <= units <= MAX_COUNT else None
    except (UnicodeDecodeError, InvalidOperation):
        return None


def _tokens(raw: Raw) -> int | None:
    tokens = decoded(_TOKENS, raw)
    total = tokens.total_tokens if tokens else None
    return total if total is not None and 0 <= total <= MAX_COUNT else None
