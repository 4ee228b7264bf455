"""Traces as OTLP/HTTP takes them in JSON (https://opentelemetry.io/docs/specs/otlp/). Pure.

Spans are written by templates: a tree of dictionaries, encoded, takes four times as long, as much as half a request.

Names are those of OpenTelemetry's semantic conventions for HTTP and for generative AI, of which the latter are still
marked as in development: they stand in this file alone. Counts of input include what was cached, as there. Money is an
integer of nano-USD under a name of ours. Nothing of a request's or an answer's text is in a span.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.tracing.trace import Stage, Trace

SCOPE: Final = "metergate"
_FIRST_SERVER_ERROR: Final = 500
_NANO_PER_S: Final = 1_000_000_000
# `gen_ai.operation.name` by what an endpoint's path ends with, after a colon or a slash.
OPERATIONS: Final[Mapping[str, str]] = {
    "completions": "chat",
    "messages": "chat",
    "responses": "chat",
    "embeddings": "embeddings",
    "generateContent": "generate_content",
    "streamGenerateContent": "generate_content",
    "embedContent": "embeddings",
    "batchEmbedContents": "embeddings",
}
TEXT_COMPLETIONS: Final = "/v1/completions"


def _string(name: str) -> str:
    """Return the template of an attribute that is text, JSON's own quotes included."""
    return f'{{"key":"{name}","value":{{"stringValue":%s}}}}'


def _integer(name: str) -> str:
    """Return the template of an attribute that is an integer, which OTLP writes as text."""
    return f'{{"key":"{name}","value":{{"intValue":"%d"}}}}'


_EXPORT: Final = (
    '{"resourceSpans":[{"resource":{"attributes":[%s]},"scopeSpans":[{"scope":{"name":"%s"},"spans":[%s]}]}]}'
)
_SPAN: Final = (
    '{"traceId":"%s","spanId":"%s"%s,"name":%s,"kind":%d,"startTimeUnixNano":"%d","endTimeUnixNano":"%d",'
    '"attributes":[%s]%s}'
)
_INTERNAL, _SERVER, _CLIENT = 1, 2, 3
_PARENT: Final = ',"parentSpanId":"%s"'
_STATE: Final = ',"traceState":%s'
_FAILED: Final = ',"status":{"code":2}'
_REQUEST: Final = ",".join(
    (
        _string("http.request.method"),
        _string("http.route"),
        _integer("http.response.status_code"),
        _string("metergate.request_id"),
    )
)
_ACCOUNT: Final = f"{_string('metergate.account_id')},{_string('metergate.key_id')}"
_ERROR: Final = _string("error.type")
_CHARGE: Final = ",".join(
    (_integer("metergate.cost_nano_usd"), _integer("metergate.charged_nano_usd"), _integer("metergate.attempts"))
)
_SESSION: Final = _string("gen_ai.conversation.id")
_WAIT: Final = _integer("metergate.wait_ms")
_ATTEMPT: Final = ",".join(
    (_string("gen_ai.operation.name"), _string("gen_ai.provider.name"), _string("gen_ai.request.model"))
)
_USAGE: Final = ",".join(
    (
        _integer("gen_ai.usage.input_tokens"),
        _integer("gen_ai.usage.output_tokens"),
        _integer("gen_ai.usage.cache_read.input_tokens"),
        _integer("gen_ai.usage.cache_creation.input_tokens"),
        _integer("gen_ai.usage.reasoning.output_tokens"),
    )
)
_FIRST_CHUNK: Final = '{"key":"gen_ai.response.time_to_first_chunk","value":{"doubleValue":%.6f}}'


def operation_of(endpoint: str) -> str:
    """Return `gen_ai.operation.name` of an endpoint's path."""
    if endpoint == TEXT_COMPLETIONS:
        return "text_completion"
    last = endpoint.rpartition("/")[2].rpartition(":")[2]
    return OPERATIONS.get(last, last)


def encode(traces: Iterable[Trace], resource: Mapping[str, str], epoch_s: float) -> bytes:
    """Return the body of one export. `resource` is what is said of this process; `epoch_s` added to a monotonic time is
    Unix time."""
    spans = [span for trace in traces for span in (_root(trace, epoch_s), *_children(trace, epoch_s))]
    attributes = ",".join(_string(name) % _quoted(value) for name, value in resource.items())
    return (_EXPORT % (attributes, SCOPE, ",".join(spans))).encode()


def _root(trace: Trace, epoch_s: float) -> str:
    """Return the request's own span."""
    method, endpoint = _known(trace.method), _known(trace.endpoint)
    attributes = [_REQUEST % (method, endpoint, trace.status, _quoted(trace.request_id))]
    if trace.account_id is not None and trace.key_id is not None:
        attributes.append(_ACCOUNT % (_quoted(trace.account_id), _quoted(trace.key_id)))
    if trace.error is not None:
        attributes.append(_ERROR % _known(trace.error))
    debit = trace.debit
    if debit is not None:
        attributes.append(_CHARGE % (debit.cost_nano, debit.charged_nano, debit.attempts))
        if debit.session is not None:
            attributes.append(_SESSION % _quoted(debit.session))
    under, caller = "", trace.caller
    if caller is not None:
        under = _PARENT % caller.span_id + (_STATE % _quoted(caller.state) if caller.state else "")
    return _SPAN % (
        trace.trace_id,
        trace.span_id,
        under,
        _known(f"{trace.method} {trace.endpoint}"),
        _SERVER,
        (trace.began_s + epoch_s) * _NANO_PER_S,
        (trace.ended_s + epoch_s) * _NANO_PER_S,
        ",".join(attributes),
        _FAILED if trace.status >= _FIRST_SERVER_ERROR else "",
    )


def _children(trace: Trace, epoch_s: float) -> Iterable[str]:
    """Return the spans of stages."""
    under = _PARENT % trace.span_id
    for stage in trace.stages:
        attempt = stage.name == "attempt"
        yield _SPAN % (
            trace.trace_id,
            stage.span_id,
            under,
            _known(f"{operation_of(trace.endpoint)} {stage.model}" if attempt else stage.name),
            _CLIENT if attempt else _INTERNAL,
            (stage.began_s + epoch_s) * _NANO_PER_S,
            ((stage.ended_s or trace.ended_s) + epoch_s) * _NANO_PER_S,
            _of_attempt(trace, stage) if attempt else _WAIT % (stage.wait_s * 1000) if stage.wait_s else "",
            "" if stage.error is None else _FAILED,
        )


def _of_attempt(trace: Trace, stage: Stage) -> str:
    """Return the attributes of an attempt."""
    operation = _known(operation_of(trace.endpoint))
    attributes = [_ATTEMPT % (operation, _known(stage.provider or ""), _known(stage.model or ""))]
    debit = trace.debit
    if stage.error is not None:
        attributes.append(_ERROR % _known(stage.error))
    elif debit is not None:
        attributes.append(
            _USAGE
            % (
                debit.input_tokens,
                debit.output_tokens,
                debit.cached_input_tokens,
                debit.cache_write_tokens,
                debit.reasoning_tokens,
            )
        )
        if debit.stream and trace.first_byte_s is not None:
            attributes.append(_FIRST_CHUNK % (trace.first_byte_s - stage.began_s))
    return ",".join(attributes)


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


# The same for texts of few values: names of configuration, codes, paths.
_known = lru_cache(maxsize=4_096)(_quoted)
