"""What follows from the settings for each part of a worker: its bounds in the form that it takes, and transports."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from billing.addresses import Addresses
from gateway.dialects.betas import DEFAULT_BETAS, Betas
from gateway.dialects.openai_responses.answer import ENDS
from gateway.dialects.structure import StructureBounds
from gateway.endpoints.response_sockets import ClientSocketRules
from gateway.proxy.attempts import AttemptRules
from gateway.proxy.detached_answer import DrainRules
from gateway.proxy.estimate import EstimateRules
from gateway.proxy.forward import ForwardRules
from gateway.proxy.handler import ProxyRules
from gateway.proxy.jobs import BackgroundRules
from gateway.server.bodies import BodyRules
from gateway.server.guard import EdgeRules
from gateway.server.listening import connections_within
from gateway.upstream.local.provider import LocalTransport
from gateway.upstream.socket import SocketRules
from gateway.upstream.transport import HttpTransport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config.defaults import Limits
    from gateway.config.providers import ProviderConfig
    from gateway.config.settings import Settings
    from gateway.dialects.registry import Dialects
    from gateway.server.cors import Cors
    from gateway.tokens import Tokenizer
    from gateway.upstream.base import Transport
    from gateway.upstream.local.shelf import Shelf

logger = logging.getLogger(__name__)
DAY_S: Final = 86_400
LEAST_SHARERS: Final = 2
"""No address, no account and no kind of WebSocket takes more than one part in so many of a process's connections."""
SOCKET_CONNECT_S: Final = 10.0


def make_transports(settings: Settings, tokenizer: Tokenizer, shelf: Shelf) -> dict[str, Transport]:
    """Return a transport for each provider that is on and of a kind that this version serves; local ones keep what they
    make on `shelf`."""
    defaults = settings.defaults
    transports: dict[str, Transport] = {}
    for provider in settings.providers.values():
        if not provider.enabled:
            continue
        if provider.kind == "local":
            transports[provider.name] = LocalTransport(
                tokenizer,
                delay_ms=provider.delay_ms,
                chunk_delay_ms=provider.chunk_delay_ms,
                timeout_s=defaults.upstream_timeout_s,
                shelf=shelf,
            )
        else:
            transports[provider.name] = HttpTransport(
                connections=defaults.upstream_connections,
                connect_timeout_s=defaults.connect_timeout_s,
                timeout_s=defaults.upstream_timeout_s,
                account_share=defaults.upstream_account_share,
                waiting=defaults.upstream_waiting,
            )
    return transports


def note_unknown_dialects(providers: Iterable[ProviderConfig], dialects: Dialects) -> None:
    """Log the dialects that providers name and this version does not have: requests never reach them there."""
    for provider in providers:
        for name in sorted(provider.served - dialects.by_name.keys()):
            known = ", ".join(sorted(dialects.by_name))
            logger.warning("provider %s: there is no dialect %s here; those that are: %s", provider.name, name, known)


def structure_bounds(defaults: Limits) -> StructureBounds:
    """Return how much structure a request may have, from the configuration's `max_request_*`."""
    return StructureBounds(
        depth=defaults.max_request_depth,
        fields=defaults.max_request_fields,
        messages=defaults.max_request_messages,
        parts=defaults.max_request_parts,
        tools=defaults.max_request_tools,
        members=defaults.max_request_members,
        values=defaults.max_request_values,
    )


def body_rules(settings: Settings) -> BodyRules:
    """Return the bounds of bodies in memory. One body alone always fits."""
    defaults, largest = settings.defaults, settings.proxy_max_body_bytes
    return BodyRules(
        large_bytes=defaults.large_body_bytes,
        worker_bytes=max(defaults.body_bytes_in_flight, largest),
        account_bytes=max(defaults.account_body_bytes_in_flight, largest),
    )


def edge_rules(settings: Settings, cors: Cors | None) -> EdgeRules:
    """Return what the edge follows of the configuration."""
    defaults = settings.defaults
    most = connections_within(defaults.max_connections)
    return EdgeRules(
        cors=cors,
        linger_s=defaults.linger_s,
        linger_bytes=defaults.linger_bytes,
        head_timeout_s=defaults.head_timeout_s,
        head_bytes=defaults.head_bytes_in_flight,
        body_min_bytes_per_s=defaults.body_min_bytes_per_s,
        body_slow_s=defaults.body_slow_s,
        max_body_bytes=settings.proxy_max_body_bytes,
        max_api_body_bytes=settings.max_body_bytes,
        max_connections=most,
        connections_per_address=max(1, min(defaults.connections_per_address, most // LEAST_SHARERS)),
        connections_per_account=max(1, min(defaults.connections_per_account, most // LEAST_SHARERS)),
        addresses=Addresses(settings.trusted_proxies),
        body_bytes_per_s=defaults.body_bytes_per_s,
        write_timeout_s=defaults.client_write_timeout_s,
    )


def background_rules(defaults: Limits) -> BackgroundRules:
    """Return how background responses are followed."""
    return BackgroundRules(
        *(defaults.background_poll_s, defaults.max_request_s, defaults.background_expiry_s, defaults.background_jobs),
        *(defaults.upstream_answer_bytes, defaults.max_usage_factor),
    )


def drain_rules(defaults: Limits) -> DrainRules:
    """Return how an answer is read on after its client left."""
    return DrainRules(defaults.disconnect_drain_s, defaults.reasoning_drain_s, defaults.upstream_answer_bytes)


def estimate_rules(defaults: Limits) -> EstimateRules:
    """Return how the worst case of a request is estimated."""
    return EstimateRules(
        defaults.strict,
        defaults.min_output_tokens,
        defaults.estimated_output_tokens,
        defaults.moderation_model,
        default_tool_calls=defaults.default_tool_calls,
        tool_call_tokens=defaults.tool_call_tokens,
        strict_tools=defaults.strict_tools,
    )


def forward_rules(defaults: Limits) -> ForwardRules:
    """Return the bounds of forwarding a request."""
    return ForwardRules(
        defaults.upstream_answer_bytes,
        defaults.max_request_s,
        defaults.client_write_timeout_s,
        estimate_rules(defaults),
        attempt_rules(defaults),
        first_timeout_s(defaults),
        round(defaults.tool_overrun * 100),
    )


def attempt_rules(defaults: Limits) -> AttemptRules:
    """Return the bounds of a request's attempts."""
    return AttemptRules(
        defaults.max_attempts,
        defaults.retries,
        defaults.retry_backoff_ms / 1000,
        defaults.retry_wait_s,
        defaults.attempt_timeout_s,
        defaults.attempts_deadline_s,
    )


def first_timeout_s(defaults: Limits) -> float | None:
    """Return how long a first attempt's answer may take to begin; None where the silence of the provider, which its
    connection bounds, ends it no later."""
    bound_s = min(defaults.attempt_timeout_s or defaults.attempts_deadline_s, defaults.attempts_deadline_s)
    return bound_s if bound_s < defaults.upstream_timeout_s else None


def proxy_rules(settings: Settings) -> ProxyRules:
    """Return the bounds and policies of metered requests."""
    defaults = settings.defaults
    return ProxyRules(
        estimate=estimate_rules(defaults),
        max_body_bytes=settings.proxy_max_body_bytes,
        upload_timeout_s=defaults.upload_timeout_s,
        grace_s=settings.payment_grace_days * DAY_S,
        session_headers=defaults.session_headers,
        charge_expired=defaults.expired_hold == "input",
        betas=Betas(DEFAULT_BETAS, settings.betas),
        refuse_unknown_tools=defaults.unknown_tools == "refuse",
    )


def socket_rules(settings: Settings) -> tuple[ClientSocketRules, SocketRules]:
    """Return the bounds of WebSockets, of clients and to providers."""
    defaults = settings.defaults
    most = connections_within(defaults.max_connections)
    return (
        ClientSocketRules(
            most=min(defaults.response_sockets, max(1, most // LEAST_SHARERS)),
            most_of_account=defaults.response_sockets_per_account,
            max_s=defaults.response_socket_s,
            max_message_bytes=settings.proxy_max_body_bytes,
        ),
        SocketRules(SOCKET_CONNECT_S, defaults.upstream_timeout_s, defaults.upstream_answer_bytes, ENDS),
    )
