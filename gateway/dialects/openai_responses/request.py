"""The Responses API, the request: what it asks for at most, and which tools run at the provider.

Source: https://platform.openai.com/docs/api-reference/responses/create. Bodies are refused by the same rules as those
of chats (`gateway.dialects.openai.dialect`). What would have the provider choose the model, the tools or the text by
itself (`prompt`, `multi_agent`) is refused, because nothing here bounds it. Each use of a tool that runs at the
provider (`gateway.dialects.openai.work`) calls the model again with what has been found; `max_tool_calls` bounds them.
Where the client gives none, the tools are left open, and the gateway grants a number of calls.

Of its input it is told what is not text, what is not in the body, which tools it carries, and which texts stand alone.
What an item brings stands in it, so that its bytes bound it: a token takes a byte at least. That holds for items of
unknown types, too, unless they name something that is kept elsewhere or bring pictures; then the context window is the
bound. What names an object at the provider by its id is collected, wherever in the input it stands, for the account
must own it. Source: https://platform.openai.com/docs/api-reference/responses/create (`input`).

`encrypted_content` of reasoning and compactions is no more than its bytes either. In 112 recorded responses, those that
pydantic-ai and Vercel's AI SDK keep for their tests, a byte of it stood for 0.10 tokens of reasoning on average (gpt-5,
gpt-5-mini, gpt-5.1-codex, gpt-5.6, o4-mini, grok-code-fast-1), 0.19 at most, and in 6 requests that send compactions
back for 0.11 at most: one token a byte leaves a margin of five. o3-mini's is 440 bytes however long it has thought,
because it has no reasoning in it. DeepSeek's is the id of what it keeps, which is no bound.

As for chats (`gateway.dialects.openai.messages`), the text of a message stands between special tokens, so that it can
be counted by itself; all else stays at its bytes in a hold, and is counted as text where an answer was cut.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from billing.schemas.decoding import UNREADABLE
from billing.usage import MAX_COUNT
from gateway.dialects.body import (
    NULL,
    TEXT,
    BadRequest,
    FieldTable,
    StructureBounds,
    check_items,
    check_value,
    checked_model,
    field_of,
    first_byte,
    folded,
    integer_within,
    is_null,
    label,
    metadata_of,
    more_items,
    read_object,
    read_objects,
    read_values,
    request_fields,
    text,
    too_many,
    wrong_type,
)
from gateway.dialects.declarations import NO_METADATA
from gateway.dialects.facts import NO_PARTS, NO_WORK, Creation, ParsedRequest, Parts, Stored, Work
from gateway.dialects.openai.messages import content_texts, text_of
from gateway.dialects.openai.work import (
    TOOL_CALLS_FIELD,
    TOOLS,
    UNMETERED,
    WORK_FIELDS,
    ServerTool,
    has_objects,
    read_work,
    server_tools,
)
from gateway.dialects.output import Inline, Kind, count_input, kind_named, piece_of
from gateway.tokens import TOKENS_PER_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

INPUT: Final = "input"
CONTENT: Final = "input.content"
# Names under which the ids of objects at the provider stand in an input.
ID_FIELDS: Final = frozenset({"file_id", "file_ids", "vector_store_ids", "container_id"})
REFERENCE: Final = "item_reference"
_ENCRYPTED: Final = "encrypted_content"
_ITEM: Final = frozenset({"type", "role", "content", "output", "id", _ENCRYPTED, TOOLS})
_REASONING: Final = frozenset({"reasoning", "compaction"})
# Items that bring nothing but what stands in them, and images and files as parts of `content` and `output`.
_PLAIN_ITEMS: Final = frozenset(
    {
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "web_search_call",
        "mcp_list_tools",
        "mcp_call",
        "mcp_approval_request",
        "mcp_approval_response",
        "computer_call",
        "tool_search_call",
        "tool_search_output",
        "additional_tools",
        "configuration_update",
        "compaction_trigger",
        "program",
        "program_output",
        "agent_message",
        "compaction_summary",
        "ghost_snapshot",
    }
)
# Items whose results the provider keeps, or that are pictures.
_STORED_ITEMS: Final = frozenset({"image_generation_call", "file_search_call", "code_interpreter_call"})
_WITH_TOOLS: Final = frozenset({"additional_tools", "tool_search_output"})
# Its `tools` are what a server has told, which is text.
_LISTED_TOOLS: Final = "mcp_list_tools"
COMPACTION_TRIGGER: Final = "compaction_trigger"
# An item with no other fields names one that is kept elsewhere.
_BARE_FIELDS: Final = frozenset({"type", "id", "status", "role", "phase"})
_KEPT_ID: Final = re.compile(rb'"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27,50}"')
_KEPT_ID_BYTES: Final = 64
_NAME_OF_STORED: Final = re.compile(
    r"(?:(?:^|_)(?:ids?|ur[il]s?|refs?|references?)|(?:Ids?|IDs?|Ur[il]s?|URLs?|Refs?))\Z"
)
# Ids that say which item of the same input is meant.
_NAME_OF_CALL: Final = frozenset({"id", "call_id", "tool_call_id", "caller_id", "turn_id", "approval_request_id"})
_MEDIA: Final = re.compile("image|picture|screenshot|audio|sound|video|media|file", re.IGNORECASE)
_SCREENSHOT: Final = "computer_call_output"
_TEXT_PARTS: Final = frozenset(
    {"input_text", "output_text", "refusal", "text", "summary_text", "reasoning_text", _ENCRYPTED}
)
_PART: Final = frozenset({"type", "text", "image_url", "file_id", "file_data", "file_url", "input_audio", "detail"})
_DATA_URL: Final = b'"data:'
_PART_LEVEL: Final = 4
_QUOTE, _LIST, _OBJECT = b'"[{'
# Without any of these no name of an id stands in a body, however it is spelled or escaped.
_ID_MARKS: Final = (b"file_id", b"fileid", b"ids", b"ontainer", b"\\u00", b"ID", b"Id")
_SETTINGS: Final = frozenset(
    {
        "model",
        "user",
        "safety_identifier",
        "service_tier",
        "metadata",
        "include",
        "truncation",
        "stream_options",
        "reasoning",
        "tool_choice",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "previous_response_id",
        "conversation",
        "context_management",
        "moderation",
    }
)
_NO_TEXT: Final = frozenset({"type", "id", "status", "detail", "file_id", "call_id"})


# What one item of reasoning that is only named by its id is held as. It was written in one step between two calls of
# tools, which takes some hundred tokens to a few thousand. Libraries send every one of a run again: the context window
# for each would keep all but the largest balances out.
KEPT_REASONING_TOKENS: Final = 8_192


class Input(msgspec.Struct, frozen=True):
    """What the `input` of a request brings. `parts` are not text; `outside`: there is input that is not in the body;
    `ids` of objects that it names; `tools` that it carries and that run at the provider; `compactions` it asks for;
    `kept_reasoning` are items of reasoning that the provider keeps and the body only names."""

    parts: Parts = NO_PARTS
    outside: bool = False
    ids: tuple[str, ...] = ()
    tools: tuple[ServerTool, ...] = ()
    compactions: int = 0
    kept_reasoning: int = 0

    @property
    def kept_tokens(self) -> int:
        """Return how many tokens the reasoning that is kept at the provider is held as."""
        return self.kept_reasoning * KEPT_REASONING_TOKENS

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the types of its tools."""
        return tuple(tool.kind for tool in self.tools)


NO_INPUT: Final = Input()


def read_input(raw: Raw | None, bounds: StructureBounds) -> Input:
    """Return what the `input` of a request brings. Raises `BadRequest`."""
    if raw is None or is_null(raw):
        return NO_INPUT
    first = first_byte(raw)
    if first == _QUOTE:
        return NO_INPUT
    if first != _LIST:
        raise wrong_type(INPUT, "a string or an array of objects")
    check_items(raw, bounds.messages, "items in 'input'", INPUT)
    items = read_objects(raw, INPUT, _ITEM)
    if items is None:
        raise wrong_type(INPUT, "a string or an array of objects")
    check_value(raw, bounds, 1, INPUT)
    outside, compactions, kept = False, 0, 0
    parts: list[dict[str, Raw]] = []
    tools: list[ServerTool] = []
    for index, item in enumerate(items):
        kind = _kind_of(item)
        outside |= _read_item(kind, item, parts, bounds)
        compactions += kind == COMPACTION_TRIGGER
        kept += kind in _REASONING and _is_kept(item)
        if TOOLS in item:
            tools += _carried(kind, item[TOOLS], f"{INPUT}[{index}].{TOOLS}", bounds)
    counted, elsewhere = _count(parts) if parts else (NO_PARTS, False)
    return Input(counted, outside or elsewhere, tuple(named_ids(raw)), tuple(tools), compactions, kept)


def _carried(kind: str, raw: Raw, param: str, bounds: StructureBounds) -> list[ServerTool]:
    """Return the tools in an item that run at the provider. Of an item of an unknown type they are those of a list of
    objects; anything else there is none of ours."""
    if kind == _LISTED_TOOLS:
        return []
    if kind not in _WITH_TOOLS and not has_objects(raw, param):
        return []
    return server_tools(raw, bounds, UNMETERED, param)


def named_ids(raw: Raw | bytes) -> list[str]:
    """Return the ids of objects at the provider that a JSON value names, in order, each once. Raises `BadRequest` where
    such a field is no string or list of strings, or its name is spelled in another way."""
    body = bytes(raw)
    if not any(mark in body for mark in _ID_MARKS):
        return []
    return list(dict.fromkeys(_ids(msgspec.json.decode(body))))


def _ids(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, under in value.items():
            if name in ID_FIELDS:
                yield from _strings(under, name)
            elif folded(name) in _FOLDED_IDS:
                raise BadRequest(f"Unrecognized field: write '{_FOLDED_IDS[folded(name)]}', in lower case.", INPUT)
            else:
                yield from _ids(under)
    elif isinstance(value, list):
        for each in value:
            yield from _ids(each)


_FOLDED_IDS: Final[Mapping[str, str]] = {folded(name): name for name in ID_FIELDS}


def _strings(value: Any, name: str) -> Iterator[str]:
    for each in value if isinstance(value, list) else [] if value is None else [value]:
        if not isinstance(each, str):
            raise wrong_type(f"input.{name}", "a string")
        yield each


def _kind_of(item: Mapping[str, Raw]) -> str:
    """Return the type of an item. Raises `BadRequest` for a reference to another one."""
    kind = "message" if is_null(item.get("type")) else text(item["type"], "input.type")
    if kind == REFERENCE or (is_null(item.get("type")) and "role" not in item):
        raise BadRequest(
            "References to items by their id can't be metered here: send the items, or a 'previous_response_id'.", INPUT
        )
    return kind


def _read_item(kind: str, item: Mapping[str, Raw], parts: list[dict[str, Raw]], bounds: StructureBounds) -> bool:
    """Add the parts of one item; return whether it brings input that is not in the body."""
    if kind in _REASONING or kind in _PLAIN_ITEMS or kind == _SCREENSHOT:
        outside = False
    else:
        outside = kind in _STORED_ITEMS or _brings_more_in(item)
    for name in ("content", "output"):
        value = item.get(name)
        if value is None or first_byte(value) in (_QUOTE, ord("n")):
            continue
        if first_byte(value) == _OBJECT:
            value = Raw(b"[%b]" % bytes(value))
        if first_byte(value) == _LIST:
            outside |= not _collect(value, parts, bounds)
    return outside


def _is_kept(item: Mapping[str, Raw]) -> bool:
    """Return whether reasoning is kept at the provider, and the item only names it: OpenAI finds it by the item's id
    where it is not sent along."""
    encrypted, content = field_of(item, _ENCRYPTED), field_of(item, "content")
    if encrypted is not None:
        return len(encrypted) <= _KEPT_ID_BYTES and _KEPT_ID.fullmatch(encrypted) is not None
    sent = content is not None and bytes(content).replace(b" ", b"") not in (b"[]", b'""')
    return not is_null(item.get("id")) and not sent


def _brings_more_in(fields: Mapping[str, Raw]) -> bool:
    """Return whether an item or a part of an unknown type brings more than its bytes say: it names what is kept
    elsewhere, brings a picture or sound, or has nothing in it."""
    given = {name: raw for name, raw in fields.items() if not is_null(raw)}
    if given.keys() <= _BARE_FIELDS:
        return True
    return _brings_more({name: msgspec.json.decode(raw) for name, raw in given.items()})


def _brings_more(value: Any) -> bool:
    if isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and _MEDIA.search(kind):
            return True
        return any(
            (name not in _NAME_OF_CALL and bool(under) and _NAME_OF_STORED.search(name) is not None)
            or _brings_more(under)
            for name, under in value.items()
            if name != TOOLS
        )
    if isinstance(value, list):
        return any(map(_brings_more, value))
    return isinstance(value, str) and value.startswith("data:")


def _collect(content: Raw, parts: list[dict[str, Raw]], bounds: StructureBounds) -> bool:
    """Add the parts of one item; False where they are something else than objects."""
    if more_items(content, bounds.parts - len(parts)):
        raise too_many("parts in its input", bounds.parts, INPUT)
    found = read_objects(content, CONTENT, _PART)
    if found is None:
        return False
    parts += found
    return True


def _count(parts: list[dict[str, Raw]]) -> tuple[Parts, bool]:
    images = files = inline_bytes = 0
    outside = False
    for part in parts:
        kind = "" if is_null(part.get("type")) else text(part["type"], f"{CONTENT}.type")
        if kind in _TEXT_PARTS:
            continue
        if kind in ("input_image", "computer_screenshot"):
            images += 1
            data = part.get("image_url")
        elif kind == "input_file":
            files += 1
            data = part.get("file_data")
        else:  # sound among them, whose fields are not settled
            outside |= _brings_more_in(part)
            continue
        if data is not None and (kind == "input_file" or bytes(memoryview(data)[: len(_DATA_URL)]) == _DATA_URL):
            inline_bytes += len(data)
        outside |= not is_null(part.get("file_id")) or not is_null(part.get("file_url"))
    return Parts(images, 0, files, inline_bytes, 0) if images or files else NO_PARTS, outside


class _Request(msgspec.Struct):
    instructions: Raw = NULL
    input: Raw = NULL


class _Item(msgspec.Struct):
    content: Raw = NULL


_REQUEST: Final = msgspec.json.Decoder(_Request)
_ITEMS: Final = msgspec.json.Decoder(list[_Item])


def input_texts(body: bytes) -> list[tuple[str, int]]:
    """Return each text with the bytes that it takes of the body; none where it can't be read."""
    try:
        return list(_texts(_REQUEST.decode(body)))
    except UNREADABLE:
        return []


def _texts(request: _Request) -> Iterator[tuple[str, int]]:
    yield from text_of(request.instructions)
    if bytes(request.input)[:1] != b"[":
        yield from text_of(request.input)
        return
    for item in _ITEMS.decode(request.input):
        yield from content_texts(item.content)


def input_tokens(body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
    """Return the tokens of all texts and structures, by `count`, and the inline data."""
    return count_input(body, count, _of_field)


def _of_field(name: str, value: Any, inline: list[Inline]) -> Iterator[str | int]:
    if name in _SETTINGS or isinstance(value, bool | int | float | None):
        return
    if name == INPUT and isinstance(value, list):
        yield TOKENS_PER_MESSAGE * len(value)
        for item in value:
            yield from _of_item(item, None, inline)
    else:
        yield value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _of_item(value: Any, kind: Kind | None, inline: list[Inline]) -> Iterator[str]:
    """Yield the texts within one item."""
    if isinstance(value, str):
        piece = piece_of(value, kind)
        if isinstance(piece, Inline):
            inline.append(piece)
        else:
            yield piece
    elif isinstance(value, dict):
        for name, under in value.items():
            if name == _ENCRYPTED and isinstance(under, str):
                yield under[: len(under) // 6]  # base64 has three tokens in four bytes, and it has one in eight
            elif name not in _NO_TEXT:
                yield from _of_item(under, kind_named(name, kind), inline)
    elif isinstance(value, list):
        for each in value:
            yield from _of_item(each, kind, inline)
    elif value is not None:
        yield msgspec.json.encode(value).decode()


RESPONSES: Final = "/v1/responses"
COMPACT: Final = "/v1/responses/compact"
INPUT_TOKENS: Final = "/v1/responses/input_tokens"
INSTRUCTIONS: Final = "instructions"
MAX_FIELD: Final = "max_output_tokens"

_EXPECTED: Final = {
    **dict.fromkeys(("model", "user", "safety_identifier", "service_tier", "previous_response_id"), "a string"),
    **dict.fromkeys((MAX_FIELD, TOOL_CALLS_FIELD, "n", "best_of"), "an integer"),
    **dict.fromkeys(("stream", "store", "background"), "a boolean"),
}
_REFUSED: Final[Mapping[str, str]] = {
    "prompt": "A stored prompt can't be metered here: send its text as 'instructions' and 'input'.",
    "multi_agent": "Work of several agents can't be metered here, because nothing bounds it: leave 'multi_agent' out.",
}
_OWN_FIELDS: Final = frozenset({INPUT, INSTRUCTIONS, TOOLS, "conversation", "context_management", *_REFUSED})
METERING_FIELDS: Final = frozenset({*_EXPECTED, *_OWN_FIELDS, *WORK_FIELDS})
_TABLE: Final = FieldTable(
    _EXPECTED,
    METERING_FIELDS,
    METERING_FIELDS
    | {
        "temperature",
        "top_p",
        "top_logprobs",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "include",
        "metadata",
        "truncation",
        "stream_options",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    },
    WORK_FIELDS | {INPUT},
)
_DISABLED: Final = b'"disabled"'
# Fields of `WORK_FIELDS` that are read here in another way.
_ELSEWHERE: Final = frozenset({TOOLS, "conversation", "previous_response_id"})
_CONVERSATION: Final = frozenset({"id"})
# Calls that are granted at most where the context may be compacted before each of them, which is a call of the model
# itself.
CALLS_WITH_COMPACTION: Final = 4
_COMPACTION: Final = "compaction"
_GENERATE: Final = "generate"
_CACHE_OPTIONS: Final = "prompt_cache_options"
_PREWARM: Final = frozenset({"prewarm"})
_TRUE, _FALSE = Raw(b"true"), Raw(b"false")
CHAT_BODY: Final = (
    "Missing required parameter: 'input'. This is a body of /v1/chat/completions (it has 'messages'): send it there, "
    "or set your client to use chat completions."
)


def parse(
    operation: str, body: bytes, bounds: StructureBounds, created: Creation, *, on_socket: bool = False
) -> ParsedRequest:
    """Return what a request for a response, its compaction or its count of tokens asks for; `created` tells of the
    response that is stored, or on a WebSocket can be gone on from. Raises `BadRequest`."""
    fields = request_fields(body, bounds)
    values = read_values(fields, _TABLE, INPUT, bounds)
    for name, message in _REFUSED.items():
        if not is_null(fields.get(name)):
            raise BadRequest(message, name)
    for name in ("n", "best_of"):
        integer_within(values, name, 1, 1)
    if INPUT not in fields and "messages" in fields:  # some clients send both APIs' bodies to one address
        raise BadRequest(CHAT_BODY, INPUT)
    _check_instructions(fields.get(INSTRUCTIONS))
    given = read_input(fields.get(INPUT), bounds)
    stored = _stored(fields, values)
    if values.get("background"):
        _check_background(operation, values)
    work = _work(operation, fields, values, given, bounds)
    previous = values.get("previous_response_id")
    only_previous = previous is not None and not (given.outside or work.outside or given.ids) and len(stored) == 1
    creation = created if operation == RESPONSES and (on_socket or values.get("store") is not False) else None
    named = None
    if stored or given.ids or creation is not None:
        named = Stored(
            (*stored, *given.ids),
            previous if only_previous else None,
            creation,
            background=values.get("background") is True,
            whole=not _shortens(fields),
            tools=given.kinds,
            most_calls=values.get(TOOL_CALLS_FIELD),
        )
    most = integer_within(values, MAX_FIELD, 1, MAX_COUNT)
    prepares = _prepares(fields, on_socket=on_socket)
    # `generate` is a part of the mode for WebSockets: over HTTP a provider may pass over it, and write.
    has_output = operation != INPUT_TOKENS and not (prepares and on_socket)
    if prepares and on_socket:
        work = without_tools(work)
    if operation == COMPACT:
        most = MAX_COUNT
    return ParsedRequest(
        operation=operation,
        model=checked_model(values.get("model")),
        stream=operation == RESPONSES and values.get("stream") is True,
        include_usage=True,
        max_output_tokens=most if has_output else None,
        max_fields=(MAX_FIELD,) if most is not None and has_output and operation == RESPONSES else (),
        input_bound_tokens=len(body) + given.kept_tokens,
        end_user=label(user) if (user := values.get("safety_identifier") or values.get("user")) else None,
        service_tier=label(tier) if (tier := values.get("service_tier")) else None,
        has_output=has_output,
        parts=given.parts,
        unbounded_input=given.outside or bool(given.ids) or bool(stored) or work.outside,
        work=work,
        stored=named,
        metadata=metadata_of(fields["metadata"]) if "metadata" in fields else NO_METADATA,
        prepares=prepares,
    )


def _check_instructions(raw: Raw | None) -> None:
    """Refuse instructions that are no text, as OpenAI does: items could bring tools, pictures and files, uncounted."""
    if raw is not None and not is_null(raw) and first_byte(raw) != ord('"'):
        raise wrong_type(INSTRUCTIONS, "a string")


def _prepares(fields: Mapping[str, Raw], *, on_socket: bool) -> bool:
    """Return whether a request only fills the provider's cache, and has nothing written. Raises `BadRequest` where two
    parsers may disagree about that."""
    if on_socket and fields.get(_GENERATE) == _FALSE:
        return True
    options = fields.get(_CACHE_OPTIONS)
    if options is None or first_byte(options) != ord("{"):
        return False
    return read_object(options, _CACHE_OPTIONS, _PREWARM).get("prewarm") == _TRUE


def _stored(fields: Mapping[str, Raw], values: Mapping[str, Any]) -> list[str]:
    """Return the ids of the response and the conversation that this one goes on from."""
    ids = [values["previous_response_id"]] if values.get("previous_response_id") is not None else []
    raw = field_of(fields, "conversation")
    if raw is None:
        return ids
    if first_byte(raw) == ord("{"):
        raw = read_object(raw, "conversation", _CONVERSATION).get("id", NULL)
    try:
        ids.append(TEXT.decode(raw))
    except msgspec.DecodeError as error:
        raise wrong_type("conversation", "a string or an object with an 'id'") from error
    return ids


def _shortens(fields: Mapping[str, Raw]) -> bool:
    """Return whether the provider may leave out a part of what came before, which later responses may have again."""
    truncation, management = fields.get("truncation"), fields.get("context_management")
    return not is_null(management) or (not is_null(truncation) and bytes(truncation or b"") != _DISABLED)


def _check_background(operation: str, values: Mapping[str, Any]) -> None:
    """Refuse work in the background that could not be polled."""
    if operation != RESPONSES or values.get("store") is False:
        raise BadRequest("Work in the background needs a response that is stored.", "background")


def _work(
    operation: str, fields: Mapping[str, Raw], values: Mapping[str, Any], given: Input, bounds: StructureBounds
) -> Work:
    """Return the work beside one call of the model, `NO_WORK` itself where there is none: its hold is then made the
    short way. A compaction of the context is one more call of it before each."""
    most_calls = integer_within(values, TOOL_CALLS_FIELD, 0, MAX_COUNT)
    management = field_of(fields, "context_management")
    compacts = management is not None
    if not (compacts or given.tools or given.compactions) and WORK_FIELDS.isdisjoint(fields):
        return NO_WORK
    tools = (*server_tools(fields.get(TOOLS), bounds, UNMETERED), *given.tools)
    others = {name: raw for name, raw in fields.items() if name in WORK_FIELDS and name not in _ELSEWHERE}
    work = read_work(others, most_calls, bounds)
    if compacts and management is not None:
        check_value(management, bounds, 1, "context_management")
    if operation != RESPONSES:
        return without_tools(work)  # no tool runs for a compaction or a count
    work = _with_tools(work, tools, most_calls)
    return _with_compactions(work, given.compactions, every_round=compacts)


def _with_tools(work: Work, tools: Sequence[ServerTool], most_calls: int | None) -> Work:
    """Return the work with that of tools; `most_calls` is the request's `max_tool_calls`, which counts all of them
    together."""
    if not tools:
        return work
    kinds = _kinds(tools)
    unknown = tuple(tool.kind for tool in tools if not tool.known)
    searching = sum(tool.searches for tool in tools)
    if most_calls is None:
        return msgspec.structs.replace(
            work,
            open_tools=(*work.open_tools, *kinds),
            unknown_tools=(*work.unknown_tools, *unknown),
            open_searches=work.open_searches + searching,
        )
    uses = max(1, most_calls)
    return msgspec.structs.replace(
        work,
        uses=work.uses + uses,
        searches=work.searches + (uses if searching else 0),
        unknown_tools=(*work.unknown_tools, *unknown),
        bounded_tools=() if work.uses else kinds,
    )


def _with_compactions(work: Work, asked: int, *, every_round: bool) -> Work:
    """Return the work with compactions of the context: one that was `asked` for, and one before each round where the
    provider decides."""
    more, most_calls = asked, work.most_calls
    if every_round:
        most_calls = CALLS_WITH_COMPACTION if work.open_tools else None
        more += work.uses + (most_calls or 0) + 1
    if not more:
        return work
    bounded = (*work.bounded_tools, _COMPACTION) if work.bounded_tools or not work.uses else ()
    return msgspec.structs.replace(work, uses=work.uses + more, bounded_tools=bounded, most_calls=most_calls)


def without_tools(work: Work) -> Work:
    """Return work of which no tool is a part. Those of unknown types are named all the same: a later request may go on
    from this one, and have them."""
    work = msgspec.structs.replace(
        work,
        uses=0,
        searches=0,
        open_tools=(),
        open_searches=0,
        bounded_tools=(),
        most_calls=None,
    )
    return NO_WORK if work == NO_WORK else work


def _kinds(tools: Sequence[ServerTool]) -> tuple[str, ...]:
    return tuple(tool.kind for tool in tools)
