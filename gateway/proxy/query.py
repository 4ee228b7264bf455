"""What becomes of a request's query string on the way to a provider. Pure.

Providers choose versions and features by it (`?api-version=...`), so that a client's goes on, after that of the
provider's base URL, whose parameters win. This file owns what of it never does: credentials by their names, a key of
this gateway wherever it stands, and the fields that metering reads from the body, which a provider may read from here.
"""

import re
from typing import Final
from urllib.parse import quote, unquote_plus

from gateway.dialects.openai.dialect import METERING_FIELDS

CREDENTIALS: Final = frozenset(
    {
        *("key", "apikey", "xapikey", "xgoogapikey", "accesskey", "subscriptionkey", "authorization", "auth"),
        *("token", "accesstoken", "oauthtoken", "secret", "password", "sig", "signature"),
    }
)
"""Names of parameters that hold credentials, in lower case and without `-` and `_`."""
_OWN_KEY: Final = re.compile(r"mg_[0-9A-Za-z]{20}")
"""What begins as a key of this gateway does."""
_SAFE: Final = "!$%'()*+,/:;=?@[]~"
_DECODINGS: Final = 3
"""How often a parameter may be percent-encoded and is still looked into."""


def upstream_query(base: str, given: str) -> str:
    """The query string for a provider, without `?`, in ASCII: that of its base URL and what passes of a client's."""
    taken = {_name(pair) for pair in base.split("&")}
    pairs = [base] if base else []
    pairs += [quoted for pair in given.partition("#")[0].split("&") if (quoted := _passed(pair, taken)) is not None]
    return "&".join(pairs)


def _passed(pair: str, taken: set[str]) -> str | None:
    name = _name(pair)
    bare = name.lower().replace("-", "").replace("_", "")
    if not pair or name in taken or bare in CREDENTIALS or name.lower() in METERING_FIELDS:
        return None
    text = pair
    for _ in range(_DECODINGS + 1):
        if _OWN_KEY.search(text):
            return None
        text = unquote_plus(text)
    return quote(pair.encode("utf-8", "surrogateescape"), safe=_SAFE)


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0])
