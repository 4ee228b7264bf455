"""The body that a provider is sent. Pure.

This file owns that the provider is asked for no more output than was held: the field in which it takes a maximum
(`max_output_field` of its entry) carries the client's own or the granted one, whichever field the client used. Where
nothing needs to change, the client's bytes are sent as they are.
"""

from gateway.dialects.base import Dialect, ParsedRequest
from gateway.dialects.openai.dialect import max_field
from gateway.proxy.estimate import within_window
from gateway.proxy.routing import Route


def outgoing_body(
    dialect: Dialect, parsed: ParsedRequest, route: Route, body: bytes, granted: int | None, *, strict: bool
) -> bytes:
    """What is sent of a request on its route; the same object where nothing changes.

    `granted` are the output tokens that the client did not bound, and the hold did; `strict` that the hold is a bound.
    """
    field = max_field(route.provider.max_output_field, parsed.endpoint)
    if granted is None and parsed.max_output_tokens is not None:
        granted = _imposed(parsed, parsed.max_output_tokens, route, field, strict)
    add_usage = parsed.stream and not parsed.include_usage
    model = None if route.model == parsed.model else route.model
    if granted is None and not add_usage and model is None:
        return body
    return dialect.rewrite(body, model=model, include_usage=add_usage, max_output_tokens=granted, max_field=field)


def _imposed(parsed: ParsedRequest, asked: int, route: Route, field: str, strict: bool) -> int | None:
    """The maximum to send in place of the client's own, None where that may pass as it stands."""
    most = within_window(asked, route) if strict else asked
    return None if most == asked and field in parsed.max_fields else most
