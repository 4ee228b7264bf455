"""How the local provider judges texts: OpenAI's moderations and Cohere's reranks, deterministically.

A moderation flags nothing. A rerank orders documents by the share of the query's words that they have.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.upstream.local.request import RequestError

if TYPE_CHECKING:
    from gateway.upstream.local.request import Fields

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
