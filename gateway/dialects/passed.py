"""What passed of a stream, for what is asked of it in the end: whether the model wrote, what, and after its usage.

Nothing of it is looked at before that. This file owns a bound: `MAX_KEPT_BYTES` are kept of what passed, of the rest
its length alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from gateway.dialects.output import Output, Piece, joined

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_KEPT_BYTES: Final = 4 << 20
"""Of what passed, for `output_text`; beyond it only the length is counted."""


class Passed:
    """The part of a tap that keeps what passed, in blocks that `_pieces` reads: events, or JSON objects. A tap appends
    to it where the bytes pass, without a call."""

    __slots__ = (
        "_began",
        "_keep_bytes",
        "_kept",
        "_kept_bytes",
        "_looked_into",
        "_not_kept_bytes",
        "_reported_at",
        "_unfinished",
    )

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._kept: list[bytes] = []
        self._kept_bytes = self._not_kept_bytes = 0
        self._reported_at = (0, 0)  # how many blocks were kept, and bytes were not, when usage was last seen
        self._began = False
        self._looked_into = 0  # how many of what is kept were searched for output
        self._unfinished: list[tuple[int, Piece]] = []  # what can be told of a last block that broke off

    def _pieces(self, block: bytes) -> Iterable[tuple[int, Piece]]:
        """Return the output in one block."""
        raise NotImplementedError

    @property
    def _unkept_bytes(self) -> int:
        """Return how much passed unread, or without being kept."""
        return self._not_kept_bytes

    @property
    def tool_calls(self) -> int:
        """Return how many calls of tools at the provider were told of in what is kept; 0 where the format has none."""
        return 0

    @property
    def began_output(self) -> bool:
        """Return whether the model wrote something. Looked for when this is asked, in what passed first."""
        if not self._began:
            self._began = any(any(self._pieces(block)) for block in self._kept[self._looked_into :])
            self._looked_into = len(self._kept)
        return self._began

    @property
    def stale(self) -> bool:
        """Return whether the model wrote on after the last usage was seen, so that it does not say all."""
        kept, unkept_bytes = self._reported_at
        if unkept_bytes != self._unkept_bytes or self._unfinished:
            return True
        return any(any(self._pieces(block)) for block in self._kept[kept:])

    def output(self) -> Output:
        """Return what the model wrote in the whole blocks within `MAX_KEPT_BYTES`; see `extrapolate`."""
        output = joined([*(pair for block in self._kept for pair in self._pieces(block)), *self._unfinished])
        calls = self.tool_calls
        return msgspec.structs.replace(output, tool_calls=calls) if calls else output

    def extrapolate(self, tokens: int) -> int:
        """Return the tokens of the whole stream from those of `output`, by the share of its bytes that was kept,
        rounded up. Where nothing that was kept says anything: the bytes that passed, which no count of tokens
        exceeds."""
        unkept_bytes = self._unkept_bytes
        if not unkept_bytes:
            return tokens
        if not tokens:
            return unkept_bytes
        return -(-tokens * (self._kept_bytes + unkept_bytes) // self._kept_bytes)
