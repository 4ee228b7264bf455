"""Which headers pass between a client and a provider. Pure functions; this file owns that list.

A name or value with CR, LF or NUL can't arrive here (aiohttp's parsers refuse the message) and can't leave (its writers
raise `ValueError`), so nothing here looks for them.
"""

from collections.abc import Mapping

from multidict import CIMultiDict, CIMultiDictProxy

IDENTITY = "identity"
UPSTREAM_REQUEST_ID = "x-upstream-request-id"

# RFC 9110, 7.6.1, and `keep-alive` and `proxy-*` from the older documents that peers still follow.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

_NOT_SENT = _HOP_BY_HOP | {
    # The message that goes out is a new one: other host, other framing, a body that was decoded and read whole.
    "accept-encoding",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    # Credentials and identities of the client's side.
    "authorization",
    "cookie",
    "openai-organization",
    "openai-project",
    "x-api-key",
    "x-goog-api-key",
    "x-request-id",
    # Where the client sits is not the provider's business.
    "forwarded",
    "via",
    "x-real-ip",
}
_NOT_SENT_PREFIXES = ("x-metergate-", "x-forwarded-", "proxy-")

_NOT_ANSWERED = _HOP_BY_HOP | {
    "content-length",
    "date",
    "server",
    # The operator's own account with the provider.
    "anthropic-organization-id",
    "openai-organization",
    "openai-project",
    # What would act on the gateway's whole origin.
    "alt-svc",
    "clear-site-data",
    "nel",
    "report-to",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    # Only ours: see `_PROVIDERS_REQUEST_ID`.
    UPSTREAM_REQUEST_ID,
}
_NOT_ANSWERED_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-", "x-metergate-", "proxy-")
_PROVIDERS_REQUEST_ID = frozenset({"x-request-id", "request-id"})  # OpenAI's and Anthropic's name

_PLAIN_CONNECTION = frozenset({"keep-alive", "close"})
_NOTHING: frozenset[str] = frozenset()


def outgoing(
    headers: CIMultiDictProxy[str] | CIMultiDict[str],
    provider_key: str | None,
    extra: Mapping[str, str] | None = None,
) -> CIMultiDict[str]:
    """The headers for the provider, from a client's: complete but for Host and framing.

    The provider's key goes into `Authorization: Bearer`; each of `extra` replaces what has its name by then.
    """
    named = _named_by_connection(headers)
    sent: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        lower = name.lower()
        if lower in _NOT_SENT or lower in named or lower.startswith(_NOT_SENT_PREFIXES):
            continue
        sent.add(name, value)
    sent["Accept-Encoding"] = IDENTITY
    if provider_key is not None:
        sent["Authorization"] = f"Bearer {provider_key}"
    if extra:
        for name, value in extra.items():
            sent[name] = value
    return sent


def incoming(headers: CIMultiDictProxy[str] | CIMultiDict[str]) -> CIMultiDict[str]:
    """The headers of a provider's answer that the client gets, the provider's request id as `x-upstream-request-id`."""
    named = _named_by_connection(headers)
    answered: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        lower = name.lower()
        if lower in _PROVIDERS_REQUEST_ID:
            answered[UPSTREAM_REQUEST_ID] = value
        elif lower in _NOT_ANSWERED or lower in named or lower.startswith(_NOT_ANSWERED_PREFIXES):
            continue
        else:
            answered.add(name, value)
    return answered


def client_key(headers: CIMultiDictProxy[str] | CIMultiDict[str]) -> str | None:
    """The key that a client shows: `Authorization: Bearer`, else `x-api-key`, else `x-goog-api-key`; None without."""
    authorization = headers.get("Authorization")
    if authorization is not None:
        scheme, _, credentials = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and (key := credentials.strip()):
            return key
    for name in ("x-api-key", "x-goog-api-key"):
        if key := headers.get(name, "").strip():
            return key
    return None


def _named_by_connection(headers: CIMultiDictProxy[str] | CIMultiDict[str]) -> frozenset[str]:
    """Lower-case names that `Connection` declares to be for this hop alone (RFC 9110, 7.6.1)."""
    if "Connection" not in headers:
        return _NOTHING
    values = headers.getall("Connection")
    if len(values) == 1 and values[0].lower() in _PLAIN_CONNECTION:
        return _NOTHING
    return frozenset(name.strip().lower() for value in values for name in value.split(","))
