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

What a request brings stands in `contents`, `systemInstruction` and `content`
(https://ai.google.dev/api/caching#Content). What is in the body costs at most a token a byte, parts that are not
known here included. So do thoughts, which a `thoughtSignature` has in full, encrypted: recorded answers have 0.24
tokens of thoughts a byte of it at most (one of 384 has 0.41), and requests that bring it back 0.21 tokens of input a
byte. Inline images and documents are bounded by a price row's `part_tokens`, sound by its bytes; inline video, files by
their address, and parts that are not known here and have data or an address, by the context window. Files that are
stored at Google are shared by all who use the operator's key: an address that leads there is refused.

Google's servers take a field by its JSON name and by its name in the definition (`maxOutputTokens` and
`max_output_tokens`, https://protobuf.dev/programming-guides/json/), and by no other spelling. Both are read here as the
first; a name in a third spelling, or in both at once, is refused. A list of one item may be written without its
brackets, as Google's own examples have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Raw

from billing.schemas.decoding import UNREADABLE
from billing.usage import MAX_COUNT
from gateway.dialects.body import (
    FIELDS,
    MAX_LABEL_CHARS,
    MAX_MODEL_CHARS,
    MAX_NAME_CHARS,
    NULL,
    PLAIN_BYTES,
    SHORT_VALUE_BYTES,
    TEXT,
    BadRequest,
    StructureBounds,
    check_names,
    check_size,
    check_value,
    first_byte,
    is_null,
    label,
    more_items,
    objects_of,
    read_object,
    text,
    texts,
    too_many,
    top_level,
    whole,
    wrong_type,
)
from gateway.dialects.facts import NO_PARTS, NO_WORK, ParsedRequest, Parts, Work
from gateway.dialects.output import Inline, count_input, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.dialects.base import Head

_UPPER: Final = re.compile(r"([A-Z])")
_OBJECT, _LIST, _QUOTE = b'{["'
GENERATE: Final = "generateContent"
STREAM: Final = "streamGenerateContent"
EMBED: Final = "embedContent"
EMBED_BATCH: Final = "batchEmbedContents"
COUNT: Final = "countTokens"


class Names:
    """The names of one kind of object that metering reads."""

    __slots__ = ("_plain", "spelled")

    def __init__(self, *names: str) -> None:
        self._plain: dict[str, str] = {}
        for name in names:
            self._plain[name] = self._plain[snake(name)] = name
        self.spelled = frozenset(self._plain)

    def plain(self, fields: Mapping[str, Raw]) -> dict[str, Raw]:
        """Return the fields by their JSON names; null is as if it were not given."""
        of = self._plain
        return {of.get(name, name): value for name, value in fields.items() if not is_null(value)}

    def read(self, raw: Raw, param: str) -> dict[str, Raw]:
        """Return the fields of an object. Raises `BadRequest`."""
        return self.plain(read_object(raw, param, self.spelled))

    def read_each(self, raw: Raw, param: str, most: int) -> list[dict[str, Raw]]:
        """Return the fields of each object of a list of at most `most`. Raises `BadRequest`."""
        if first_byte(raw) == _OBJECT:
            return [self.read(raw, param)]
        if first_byte(raw) != _LIST:
            raise wrong_type(param, "an array of objects")
        if more_items(raw, most):
            raise too_many(f"items in '{param}'", most, param)
        return [self.plain(each) for each in objects_of(raw, param, self.spelled)]

    def check(self, names: Iterable[str], param: str) -> None:
        """Refuse names that are spelled in another way, or in two. Raises `BadRequest`."""
        check_names(names, param, self.spelled)

    def spelling(self, fields: Mapping[str, object], name: str) -> str:
        """Return how an object spells a field: by its JSON name where it has neither."""
        return snake(name) if snake(name) in fields else name


def snake(name: str) -> str:
    """Return a field's name in the definition, by its JSON name."""
    return _UPPER.sub(r"_\1", name).lower()


def method_of(operation: str) -> str:
    """Return what is done, without the version of the API."""
    return operation.partition(":")[2]


def texts_or_one(raw: Raw, param: str) -> list[str]:
    """Return a list of strings, or of the one that stands there without brackets. Raises `BadRequest`."""
    return [text(raw, param)] if first_byte(raw) == _QUOTE else texts(raw, param)


CONTENTS: Final = "contents"
_CONTENT: Final = Names("role", "parts")
_PART: Final = Names(
    "text",
    "thought",
    "thoughtSignature",
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
    "executableCode",
    "codeExecutionResult",
    "videoMetadata",
    "partMetadata",
    "mediaResolution",
    "toolCall",
    "toolResponse",
)
# Parts, or fields next to them, that cost no more than their bytes.
_IN_BODY: Final = frozenset(
    {
        "text",
        "thought",
        "thoughtSignature",
        "functionCall",
        "executableCode",
        "codeExecutionResult",
        "videoMetadata",
        "partMetadata",
        "mediaResolution",
        "toolCall",
        "toolResponse",
    }
)
# Names by which a part that is not known here brings more than its bytes.
_ELSEWHERE: Final = frozenset({"data", "uri", "url", "fileUri", "file_uri"})
_BLOB: Final = Names("mimeType", "data", "displayName")
_FILE: Final = Names("mimeType", "fileUri", "displayName")
_FUNCTION_RESPONSE: Final = Names("id", "name", "response", "parts", "willContinue", "scheduling")
_GOOGLES_HOSTS: Final = ("googleapis.com", "cloud.google.com")
_SHORTEST_ITEM_BYTES: Final = len("{},")
_FILE_HINT: Final = "send it as 'inlineData', or by an 'https://' address that is open to all."


class _PlainPart(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    text: str


class _PlainContent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A turn as nearly all are: texts and nothing else."""

    parts: list[_PlainPart]
    role: str | None = None


_PLAIN: Final = msgspec.json.Decoder(list[_PlainContent] | _PlainContent)


class Counted:
    """What was found in the parts of a request, added up."""

    __slots__ = ("audio_bytes", "audios", "files", "images", "inline_bytes", "outside", "seen")

    def __init__(self) -> None:
        self.images = self.audios = self.files = self.inline_bytes = self.audio_bytes = self.seen = 0
        self.outside = False

    def parts(self) -> Parts:
        """Return the sums."""
        if not self.images and not self.audios and not self.files:
            return NO_PARTS
        return Parts(self.images, self.audios, self.files, self.inline_bytes, self.audio_bytes)


def count_contents(raw: Raw, param: str, bounds: StructureBounds, counted: Counted) -> None:
    """Add up the parts of one content or a list of them. Raises `BadRequest`."""
    if len(raw) <= PLAIN_BYTES and _is_plain(bytes(raw), bounds):
        return
    if first_byte(raw) == _QUOTE:
        raise wrong_type(param, "an array of objects")
    for content in _CONTENT.read_each(raw, param, bounds.messages):
        if "role" in content:
            text(content["role"], f"{param}.role")
        if "parts" in content:
            _count_parts(content["parts"], f"{param}.parts", bounds, counted)


def _is_plain(contents: bytes, bounds: StructureBounds) -> bool:
    """Return whether all parts are texts, each name once: told by the number of strings, or of the names where some
    strings are escaped (a name within a string has escaped quotes)."""
    try:
        found = _PLAIN.decode(contents)
    except UNREADABLE:
        return False
    turns = found if isinstance(found, list) else [found]
    parts, roles = sum(len(turn.parts) for turn in turns), sum(turn.role is not None for turn in turns)
    if len(turns) > bounds.messages or parts > bounds.parts:
        return False  # which is said elsewhere
    if b"\\" not in contents:
        return contents.count(b'"') == 4 * parts + 2 * len(turns) + 4 * roles
    names = contents.count(b'"text"'), contents.count(b'"parts"'), contents.count(b'"role"')
    return b"\\u" not in contents and names == (parts, len(turns), roles)


def _count_parts(raw: Raw, param: str, bounds: StructureBounds, counted: Counted) -> None:
    left = bounds.parts - counted.seen
    if len(raw) > _SHORTEST_ITEM_BYTES * left and more_items(raw, left):
        raise too_many("parts", bounds.parts, param)
    parts = _PART.read_each(raw, param, left)
    counted.seen += len(parts)
    for part in parts:
        for name, value in part.items():
            if name == "text":
                if first_byte(value) != _QUOTE:
                    raise wrong_type(f"{param}.text", "a string")
            elif name == "inlineData":
                _count_blob(value, f"{param}.inlineData", counted)
            elif name == "fileData":
                _check_file(value, f"{param}.fileData")
                counted.outside = True
            elif name == "functionResponse":
                response = _FUNCTION_RESPONSE.read(value, f"{param}.functionResponse")
                if "parts" in response:
                    _count_parts(response["parts"], f"{param}.functionResponse.parts", bounds, counted)
            elif name not in _IN_BODY and first_byte(value) == _OBJECT:
                counted.outside = counted.outside or not _ELSEWHERE.isdisjoint(read_object(value, f"{param}.{name}"))


def _count_blob(raw: Raw, param: str, counted: Counted) -> None:
    blob = _BLOB.read(raw, param)
    data = blob.get("data")
    if data is None or first_byte(data) != _QUOTE:
        raise wrong_type(f"{param}.data", "a string in base64")
    kind = kind_of(text(blob["mimeType"], f"{param}.mimeType")) if "mimeType" in blob else None
    if kind == "audio":
        counted.audios += 1
        counted.audio_bytes += len(data)
        return
    counted.inline_bytes += len(data)
    if kind == "image":
        counted.images += 1
    elif kind == "file":
        counted.files += 1
    else:  # a second of video is few bytes and many tokens
        counted.outside = True


def _check_file(raw: Raw, param: str) -> None:
    """Refuse an address that leads to what is stored under the operator's key. Raises `BadRequest`."""
    address = _FILE.read(raw, param).get("fileUri")
    if address is None:
        raise BadRequest(f"Missing required parameter: '{param}.fileUri'.", param)
    uri = text(address, f"{param}.fileUri")
    try:
        parts = urlsplit(uri)
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        host = ""
    plain = uri.isascii() and uri.isprintable() and not set(" \\@%") & set(uri.partition("//")[2].partition("/")[0])
    stored = any(host == each or host.endswith("." + each) for each in _GOOGLES_HOSTS)
    if not host or not plain or stored or parts.scheme.lower() not in ("http", "https"):
        raise BadRequest(f"A file that is stored at the provider can't be used here: {_FILE_HINT}", f"{param}.fileUri")


class _Part(msgspec.Struct):
    text: Raw = NULL


class _Content(msgspec.Struct):
    parts: Raw = NULL


_CONTENTS: Final = msgspec.json.Decoder(list[_Content] | _Content)
_PARTS: Final = msgspec.json.Decoder(list[_Part] | _Part)
_REQUESTS: Final = msgspec.json.Decoder(list[dict[str, Raw]])
# Fields of a request that a model does not read.
_SETTINGS: Final = frozenset(
    {
        "model",
        "safetySettings",
        "safety_settings",
        "toolConfig",
        "tool_config",
        "labels",
        "serviceTier",
        "service_tier",
        "store",
        "taskType",
        "task_type",
        "outputDimensionality",
        "output_dimensionality",
        "cachedContent",
        "cached_content",
        "continuationToken",
        "continuation_token",
    }
)


def input_texts(body: bytes) -> list[tuple[str, int]]:
    """Return each text of the contents, with the bytes that it takes of a body that `request.parse` accepts; none where
    it can't be read."""
    try:
        fields = FIELDS.decode(body)
        requests: Iterable[Mapping[str, Raw]] = _REQUESTS.decode(fields["requests"]) if "requests" in fields else ()
        found = [each for request in (fields, *requests) for each in _texts(request)]
    except UNREADABLE:
        return []
    return found


def _texts(fields: Mapping[str, Raw]) -> Iterator[tuple[str, int]]:
    for name in ("systemInstruction", "system_instruction", "contents", "content"):
        raw = fields.get(name)
        if raw is None or first_byte(raw) not in b"{[":
            continue
        contents = _CONTENTS.decode(raw)
        for content in contents if isinstance(contents, list) else (contents,):
            if first_byte(content.parts) in b"{[":
                parts = _PARTS.decode(content.parts)
                for part in parts if isinstance(parts, list) else (parts,):
                    if first_byte(part.text) == _QUOTE:
                        yield TEXT.decode(part.text), len(part.text)


def input_tokens(body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
    """Return the tokens of all texts and structures of a request, by `count`, and the inline data."""
    return count_input(body, count, _of_field)


def _of_field(name: str, value: Any, inline: list[Inline]) -> Iterator[str]:
    return iter(()) if name in _SETTINGS else _walk(value, inline)


def _walk(value: Any, inline: list[Inline]) -> Iterator[str]:
    """Yield the strings and numbers of a value; inline data goes to `inline`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, under in value.items():
            if name in ("inlineData", "inline_data") and isinstance(under, dict):
                inline += _blobs(under)
            elif name not in ("thoughtSignature", "thought_signature"):
                if name not in ("parts", "text", "role", "contents", "content", "requests"):
                    yield name
                yield from _walk(under, inline)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, inline)
    elif value is not None and not isinstance(value, bool):
        yield msgspec.json.encode(value).decode()


def _blobs(blob: Mapping[str, Any]) -> Sequence[Inline]:
    data, mime_type = blob.get("data"), blob.get("mimeType") or blob.get("mime_type")
    if not isinstance(data, str):
        return ()
    return (Inline((isinstance(mime_type, str) and kind_of(mime_type)) or "file", len(data)),)


MAX_FIELD: Final = "maxOutputTokens"
MAX_CANDIDATES: Final = 128
# Searches that are held for one answer of a model that searches as often as it likes.
SEARCHES: Final = 16
# How often a model may run code for one answer (https://ai.google.dev/gemini-api/docs/code-execution).
CODE_RUNS: Final = 5
# The pages of `urlContext` are all read in one further round.
PAGE_READS: Final = 1

REQUEST: Final = Names(
    "model",
    "contents",
    "systemInstruction",
    "tools",
    "toolConfig",
    "safetySettings",
    "generationConfig",
    "cachedContent",
    "serviceTier",
    "labels",
    "store",
    "continuationToken",
    "modelArmorConfig",
    "content",
    "requests",
    "taskType",
    "title",
    "outputDimensionality",
    "embedContentConfig",
    "generateContentRequest",
    "mcpServers",
    "autoTruncate",
)
CONFIG: Final = Names(
    MAX_FIELD,
    "candidateCount",
    "thinkingConfig",
    "responseModalities",
    "routingConfig",
    "modelConfig",
    "modelSelectionConfig",
    "cachedContent",
    "serviceTier",
    "maxTokens",
)
_THINKING: Final = Names("thinkingBudget", "thinkingLevel", "includeThoughts")
# Tools that run at the client.
_PLAIN_TOOLS: Final = frozenset({"functionDeclarations", "computerUse"})
_SEARCHING: Final = frozenset({"googleSearch", "googleSearchRetrieval", "enterpriseWebSearch"})
_USES: Final = {"urlContext": PAGE_READS, "codeExecution": CODE_RUNS}
_REFUSED: Final = frozenset(
    {"googleMaps", "fileSearch", "mcpServers", "retrieval", "exaAiSearch", "parallelAiSearch"},
)
_TOOL: Final = Names(*_PLAIN_TOOLS, *_SEARCHING, *_USES, *_REFUSED)
# Models that Google bills one search for, however many they do.
_ONE_SEARCH: Final = re.compile(r"(?:^|/)gemini-(?:1|2)\b")
_OTHER_MODELS: Final = ("routingConfig", "modelConfig", "modelSelectionConfig")
_FIELD_LEVEL: Final = 1
_TIER_PREFIX: Final = "service_tier_"


def parse(head: Head, body: bytes, bounds: StructureBounds) -> ParsedRequest:
    """Return what a request to one of Gemini's endpoints asks for. Raises `BadRequest`."""
    check_size(body, bounds)
    operation, model = head.match.endpoint.operation, _model(head)
    method = method_of(operation)
    _check_query(head.path, method)
    found = top_level(body, bounds.fields)
    if found is None:
        raise too_many("fields", bounds.fields)
    REQUEST.check(found, "body")
    for name, raw in found.items():
        if len(raw) > SHORT_VALUE_BYTES:
            check_value(raw, bounds, _FIELD_LEVEL, name)
    fields = REQUEST.plain(found)
    _check_model(fields, model)
    if method in (GENERATE, STREAM):
        return _generation(operation, model, fields, body, bounds)
    parts, outside = (NO_PARTS, False) if method == COUNT else _embedded(method, model, fields, bounds)
    return ParsedRequest(
        operation=operation,
        model=model,
        include_usage=True,
        input_bound_tokens=len(body),
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
        requests = list(REQUEST.read_each(fields["requests"], "requests", bounds.messages))
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
        _check_model(REQUEST.read(fields["generateContentRequest"], "generateContentRequest"), model)


def _check_query(path: str, method: str) -> None:
    """Refuse a format of the answer that can't be metered. Raises `BadRequest`."""
    query = path.partition("?")[2]
    if not query or (method == STREAM and query == "alt=sse"):  # as most are
        return
    known = ("json", "sse") if method == STREAM else ("json",)
    for name, value in parse_qsl(query, keep_blank_values=True):
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
