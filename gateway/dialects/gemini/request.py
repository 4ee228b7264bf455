"""Gemini's format, the request: what it asks for at most. This file owns that the bound read here holds at Google.

Source: https://ai.google.dev/api/generate-content and .../embeddings. What a request may cost beside the text in it:

- Output is bounded by `maxOutputTokens`, for each of `candidateCount`. Google's page says that thoughts are not within
  it, measurements say that they are: a `thinkingBudget` that the client names is held beside it.
- `googleSearch` is billed by the search. Models before Gemini 3 do one for an answer, later ones as many as they like:
  `SEARCHES` are held, and more is charged as it is reported.
- `urlContext` and `codeExecution` bring what they find to the model, so many times. No field of a request bounds a tool
  of Google's; these numbers are Google's own.
- A tool that is not known here is held by the calls that it is granted, which nothing tells Google.
- Whatever is stored at Google (`cachedContent`, file stores) is shared by all who use the operator's key, and what runs
  there without a bound (`mcpServers`) or has no price here (`googleMaps`) can't be metered: refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from billing.usage import MAX_COUNT
from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import NO_PARTS, NO_WORK, ParsedRequest, Parts, Work
from gateway.dialects.fields import top_level
from gateway.dialects.gemini.contents import CONTENTS, Counted, count_contents
from gateway.dialects.gemini.names import COUNT, EMBED_BATCH, GENERATE, STREAM, Names, method_of, texts_or_one
from gateway.dialects.structure import SHORT_VALUE_BYTES, StructureBounds, check_size, check_value, too_many
from gateway.dialects.values import MAX_LABEL_CHARS, MAX_MODEL_CHARS, MAX_NAME_CHARS, label, text, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from msgspec import Raw

    from gateway.dialects.base import Head

MAX_FIELD: Final = "maxOutputTokens"
MAX_CANDIDATES: Final = 128
SEARCHES: Final = 16
"""Searches that are held for one answer of a model that searches as often as it likes."""
CODE_RUNS: Final = 5
"""How often a model may run code for one answer (https://ai.google.dev/gemini-api/docs/code-execution)."""
PAGE_READS: Final = 1
"""The pages of `urlContext` are all read in one further round."""

FIELDS: Final = Names(
    *("model", "contents", "systemInstruction", "tools", "toolConfig", "safetySettings", "generationConfig"),
    *("cachedContent", "serviceTier", "labels", "store", "continuationToken", "modelArmorConfig"),
    *("content", "requests", "taskType", "title", "outputDimensionality", "embedContentConfig"),
    *("generateContentRequest", "mcpServers", "autoTruncate"),
)
CONFIG: Final = Names(
    *(MAX_FIELD, "candidateCount", "thinkingConfig", "responseModalities", "routingConfig", "modelConfig"),
    *("modelSelectionConfig", "cachedContent", "serviceTier", "maxTokens"),
)
_THINKING: Final = Names("thinkingBudget", "thinkingLevel", "includeThoughts")
_PLAIN_TOOLS: Final = frozenset({"functionDeclarations", "computerUse"})
"""Tools that run at the client."""
_SEARCHING: Final = frozenset({"googleSearch", "googleSearchRetrieval", "enterpriseWebSearch"})
_USES: Final = {"urlContext": PAGE_READS, "codeExecution": CODE_RUNS}
_REFUSED: Final = frozenset(
    {"googleMaps", "fileSearch", "mcpServers", "retrieval", "exaAiSearch", "parallelAiSearch"},
)
_TOOL: Final = Names(*_PLAIN_TOOLS, *_SEARCHING, *_USES, *_REFUSED)
_ONE_SEARCH: Final = re.compile(r"(?:^|/)gemini-(?:1|2)\b")
"""Models that Google bills one search for, however many they do."""
_OTHER_MODELS: Final = ("routingConfig", "modelConfig", "modelSelectionConfig")
_FIELD_LEVEL: Final = 1
_TIER_PREFIX: Final = "service_tier_"


def parse(head: Head, body: bytes, bounds: StructureBounds) -> ParsedRequest:
    """Return what a request to one of Gemini's endpoints asks for. Raises `BadRequest`."""
    if len(body) > bounds.small_bytes:
        check_size(body, bounds)
    operation, model = head.match.endpoint.operation, _model(head)
    method = method_of(operation)
    _check_query(head.path, method)
    found = top_level(body, bounds.fields)
    if found is None:
        raise too_many("fields", bounds.fields)
    FIELDS.check(found, "body")
    for name, raw in found.items():
        if len(raw) > SHORT_VALUE_BYTES:
            check_value(raw, bounds, _FIELD_LEVEL, name)
    fields = FIELDS.plain(found)
    _check_model(fields, model)
    if method in (GENERATE, STREAM):
        return _generation(operation, model, fields, body, bounds)
    parts, outside = (NO_PARTS, False) if method == COUNT else _embedded(method, model, fields, bounds)
    return ParsedRequest(
        operation=operation,
        model=model,
        stream=False,
        include_usage=True,
        choices=1,
        max_output_tokens=None,
        input_bound_tokens=len(body),
        end_user=None,
        service_tier=None,
        has_output=False,
        parts=parts,
        unbounded_input=outside,
    )


def _generation(
    operation: str, model: str, fields: Mapping[str, Raw], body: bytes, bounds: StructureBounds
) -> ParsedRequest:
    counted = Counted()
    if "contents" not in fields:
        raise BadRequest("Missing required parameter: 'contents'.", CONTENTS)
    count_contents(fields["contents"], CONTENTS, bounds, counted)
    if "systemInstruction" in fields:
        count_contents(fields["systemInstruction"], "systemInstruction", bounds, counted)
    _refuse_stored(fields)
    config = CONFIG.read(fields["generationConfig"], "generationConfig") if "generationConfig" in fields else {}
    most, choices = _output(config)
    work = _work(model, fields.get("tools"), config, bounds)
    return ParsedRequest(
        operation=operation,
        model=model,
        stream=method_of(operation) == STREAM,
        include_usage=True,
        choices=choices,
        max_output_tokens=most,
        max_fields=(MAX_FIELD,) if most is not None else (),
        input_bound_tokens=len(body),
        end_user=None,
        service_tier=_tier(fields["serviceTier"]) if "serviceTier" in fields else None,
        has_output=True,
        parts=counted.parts(),
        unbounded_input=counted.outside or "continuationToken" in fields,
        work=work,
    )


def _embedded(method: str, model: str, fields: Mapping[str, Raw], bounds: StructureBounds) -> tuple[Parts, bool]:
    """Return the parts of what is embedded, and whether some of it is outside the body."""
    counted = Counted()
    requests: list[Mapping[str, Raw]] = [fields]
    if method == EMBED_BATCH:
        if "requests" not in fields:
            raise BadRequest("Missing required parameter: 'requests'.", "requests")
        requests = list(FIELDS.read_each(fields["requests"], "requests", bounds.messages))
    for request in requests:
        if "content" not in request:
            raise BadRequest("Missing required parameter: 'content'.", "content")
        _check_model(request, model)
        count_contents(request["content"], "content", bounds, counted)
    return counted.parts(), counted.outside


def _model(head: Head) -> str:
    model = head.match.parameters["model"]
    if not 1 <= len(model) <= MAX_MODEL_CHARS:
        raise BadRequest(f"Invalid model: expected 1 to {MAX_MODEL_CHARS} characters.", "model")
    return model


def _check_model(fields: Mapping[str, Raw], model: str) -> None:
    """Refuse a body that names another model than the path. Raises `BadRequest`."""
    if "model" in fields and text(fields["model"], "model").removeprefix("models/") != model:
        raise BadRequest(
            f"The body names another model than the path, which says '{model[:MAX_LABEL_CHARS]}'.", "model"
        )
    if "generateContentRequest" in fields:
        _check_model(FIELDS.read(fields["generateContentRequest"], "generateContentRequest"), model)


def _check_query(path: str, method: str) -> None:
    """Refuse a format of the answer that can't be metered. Raises `BadRequest`."""
    if "?" not in path:
        return
    known = ("json", "sse") if method == STREAM else ("json",)
    for name, value in parse_qsl(path.partition("?")[2], keep_blank_values=True):
        if name.strip().lower() == "alt" and value not in known:
            raise BadRequest(f"Invalid value for 'alt': expected {' or '.join(known)}.", "alt")


def _refuse_stored(fields: Mapping[str, Raw]) -> None:
    if "cachedContent" in fields:
        raise BadRequest(
            "Cached contents are stored at the provider and can't be used here: send the contents, which it caches by "
            "itself.",
            "cachedContent",
        )
    if "mcpServers" in fields:
        raise _unmetered("mcpServers")


def _output(config: Mapping[str, Raw]) -> tuple[int | None, int]:
    """Return the most tokens of one candidate, None where the client says nothing, and the number of candidates."""
    for name in _OTHER_MODELS:
        if name in config:
            raise BadRequest(f"'{name}' leaves the model to the provider: name one in the path.", name)
    choices = 1
    if "candidateCount" in config:
        choices = whole(config["candidateCount"], "generationConfig.candidateCount", 1, MAX_CANDIDATES)
    if MAX_FIELD not in config:
        return None, choices
    most = whole(config[MAX_FIELD], f"generationConfig.{MAX_FIELD}", 1, MAX_COUNT)  # 0 is as if it were not given
    if "thinkingConfig" in config:
        param = "generationConfig.thinkingConfig"
        thinking = _THINKING.read(config["thinkingConfig"], param)
        if "thinkingBudget" in thinking:
            most += max(0, whole(thinking["thinkingBudget"], f"{param}.thinkingBudget", -1, MAX_COUNT))
    return min(most, MAX_COUNT), choices


def _work(model: str, tools: Raw | None, config: Mapping[str, Raw], bounds: StructureBounds) -> Work:
    """Return the provider's work beyond one call of the model. Raises `BadRequest`."""
    audio = False
    if "responseModalities" in config:
        named = texts_or_one(config["responseModalities"], "generationConfig.responseModalities")
        audio = any(each.strip().lower() == "audio" for each in named)
    if tools is None:
        return Work(audio=True) if audio else NO_WORK
    names = {name for tool in _TOOL.read_each(tools, "tools", bounds.tools) for name in tool}
    for name in sorted(names & _REFUSED):
        raise _unmetered(name)
    used = sorted(names & _USES.keys())
    searches = 1 if _ONE_SEARCH.search(model) else SEARCHES
    unknown = tuple(sorted(each[:MAX_NAME_CHARS] for each in names - _TOOL.spelled))
    work = Work(
        uses=sum(_USES[name] for name in used),
        searches=searches if names & _SEARCHING else 0,
        audio=audio,
        open_tools=unknown,
        unknown_tools=unknown,
        calls_are_shared=not unknown,
        bounded_tools=tuple(used),
    )
    return NO_WORK if work == NO_WORK else work


def _unmetered(name: str) -> BadRequest:
    return BadRequest(f"The tool '{name}' can't be metered here: leave it out.", "tools")


def _tier(raw: Raw) -> str | None:
    """Return the service tier that is asked for, in lower case."""
    tier = label(text(raw, "serviceTier").lower().removeprefix(_TIER_PREFIX))
    return None if tier in ("", "unspecified") else tier
