"""What a dialect declares of its API: its endpoints, and what parts of the gateway need that name no dialect. Data
alone, and light to import.

Each dialect's package has its own in its `__init__`; `gateway.dialects.declared` collects them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

EVENT_STREAM: Final = b"text/event-stream"


NO_METADATA: Final[Mapping[str, str]] = {}


# Of the anomaly `total`: the answer counts in total what none of its parts is. Some providers count thinking so.
MORE_IN_TOTAL: Final = "total_tokens above all that is named"


# `pass`: nothing. `window`: input stands outside the body, so that the context window is held. `refuse`: 400. A number:
# the model's context window has at least so many tokens.
BetaEffect = Literal["pass", "window", "refuse"] | int
NO_HEADERS: Final[Mapping[str, str]] = {}
NO_NAMES: Final[tuple[str, ...]] = ()


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint that is metered.

    `path` is a pattern, and what the ledger and the metrics record: `{model}` stands for a model's name, slashes
    included, any other `{name}` for one segment. `operation` is the dialect's own word for what is done there, the same
    for all paths that lead to it. `free`: forwarded and not charged. `header` is one that a request must have, for a
    path that several APIs share. `id_header` is a further header in which its clients look for the request's id.
    `writes`: a model writes an answer there, which has output tokens.
    """

    path: str
    operation: str
    method: str = "POST"
    free: bool = False
    header: str | None = None
    id_header: str | None = None
    writes: bool = True


class Declarations(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Of one API. Names of headers are in lower case.

    Keys: `key_headers` are headers whose whole value is a client's key, `key_parameter` the query parameter that may
    hold one; `provider_key` is the header in which a provider takes its key, and what stands before the key there.

    Requests: `paths` are how its paths begin; `known_by` are headers by which its clients are known. Of a client's
    headers every provider gets `sent_headers`, and those that begin with `sent_prefixes`; a browser may send these and
    `browser_headers`. `betas` are the features that a header opens and that change metering, by header and by how
    their names begin. `system_parameters` are what its servers take from the query of any request (the fields of an
    answer, its format, who pays): none passes, unless a dialect passes it.

    Answers: a client gets a provider's `answer_headers` as they are; `renamed_prefixes` are how the provider's own
    limits begin, and `request_id_headers` hold its id of a request. `explained_anomalies` are anomalies of usage, with
    their values, that providers of this kind are known for and that mean nothing.

    Providers: `provider_paths` are the dialects that a provider of this kind serves, and what stands between its base
    URL and a dialect's own paths; `key_required`: it wants a key. `generates_media`: its text endpoint takes models of
    pictures, speech and transcripts, too.
    """

    key_headers: tuple[str, ...] = NO_NAMES
    key_parameter: str | None = None
    provider_key: tuple[str, str] = ("Authorization", "Bearer ")
    paths: tuple[str, ...] = NO_NAMES
    known_by: tuple[str, ...] = NO_NAMES
    sent_headers: tuple[str, ...] = NO_NAMES
    sent_prefixes: tuple[str, ...] = NO_NAMES
    browser_headers: tuple[str, ...] = NO_NAMES
    system_parameters: tuple[str, ...] = NO_NAMES
    betas: Mapping[str, Mapping[str, BetaEffect]] = {}
    answer_headers: tuple[str, ...] = NO_NAMES
    renamed_prefixes: tuple[str, ...] = NO_NAMES
    request_id_headers: tuple[str, ...] = NO_NAMES
    explained_anomalies: frozenset[tuple[str, str]] = frozenset()
    provider_paths: Mapping[str, str] = {}
    key_required: bool = True
    generates_media: bool = False
