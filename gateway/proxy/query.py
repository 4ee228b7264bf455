"""What becomes of a request's query string on the way to a provider. Pure.

Providers choose versions and features by it (`?api-version=...`), so that a client's goes on, after that of the
provider's base URL, whose parameters win. This file owns what of it never does: credentials by their names, a key of
this gateway wherever it stands, the fields that metering reads from the body, which a provider may read from here, and
what would have a provider leave usage out of its answer or write another format. A name counts by its letters and
digits alone: servers differ in what they take for `%20key`, `key[]` or `Key`.
"""

import re
from typing import Final
from urllib.parse import quote, unquote_plus

from gateway.dialects.openai.dialect import METERING_FIELDS

CREDENTIALS: Final = frozenset(
    {
        *("key", "apikey", "xapikey", "xgoogapikey", "accesskey", "subscriptionkey", "authorization", "auth"),
        *("token", "accesstoken", "oauthtoken", "bearertoken", "secret", "password", "passwd", "sig", "signature"),
    }
)
"""Names of parameters that hold credentials, as `_bare` has them."""
OF_THE_ANSWER: Final = frozenset({"fields", "fieldmask", "alt", "callback", "quotauser", "userproject"})
"""What Google's servers take of any request, also as `$fields`: which fields the answer has, in which format, and who
pays (https://cloud.google.com/apis/docs/system-parameters)."""
_SYSTEM: Final = "$"
"""What a name of theirs begins with; there are more (`$ct` stands for Content-Type)."""
MAX_PARAMETERS: Final = 100
"""Of a client's; what stands behind them does not go on. To look into one takes some microseconds."""
_OWN_KEY: Final = re.compile(r"mg_[0-9A-Za-z]{20}")
"""What begins as a key of this gateway does."""
_SAFE: Final = "!$%'()*+,/:=?@[]~"
"""Not `;`, which some servers take for `&`."""
_BARE: Final = re.compile(r"[^a-z0-9]+")
_DECODINGS: Final = 3
"""How often a parameter may be percent-encoded and is still looked into."""


def upstream_query(base: str, given: str) -> str:
    """The query string for a provider, without `?`, in ASCII: that of its base URL and what passes of a client's."""
    taken = {_name(pair).strip().lower() for pair in base.split("&")}
    said = given.partition("#")[0].split("&", MAX_PARAMETERS)[:MAX_PARAMETERS]
    pairs = [base] if base else []
    pairs += [quoted for pair in said if (quoted := _passed(pair, taken)) is not None]
    return "&".join(pairs)


def _passed(pair: str, taken: set[str]) -> str | None:
    name = _name(pair).strip().lower()
    bare = _bare(name)
    if not pair or name in taken or name.startswith(_SYSTEM) or bare in _NEVER:
        return None
    text = pair
    for _ in range(_DECODINGS + 1):
        if _OWN_KEY.search(text):
            return None
        text = unquote_plus(text)
    return quote(pair.encode("utf-8", "surrogateescape"), safe=_SAFE)


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0])


def _bare(name: str) -> str:
    return _BARE.sub("", name.lower())


_NEVER: Final = CREDENTIALS | OF_THE_ANSWER | {_bare(name) for name in METERING_FIELDS}
