"""What one request asks of the provider, written into its message, and what its answer must cost."""

import re
from dataclasses import dataclass
from typing import Any

INPUT_NANO = 1_000
# Prices of the model, a token.
OUTPUT_NANO = 2_000
MODEL = "chaos"
# The most that the model gives, and what an elastic hold holds where it can.
MAX_OUTPUT_TOKENS = 64
_SAID = re.compile(rb"marker=(\S+) do=(\w+) ms=(\d+) chunks=(\d+) in=(\d+) out=(\d+)")


@dataclass(frozen=True, slots=True)
class Plan:
    """`do`: ok; error (a 500); cut (the connection breaks in mid-answer); flood (a stream of megabytes, few of them
    output). `delay_ms` passes before each chunk."""

    marker: str
    do: str
    delay_ms: int
    chunks: int
    input_tokens: int
    output_tokens: int

    @property
    def charged_nano(self) -> int:
        """What a whole answer costs."""
        return self.input_tokens * INPUT_NANO + self.output_tokens * OUTPUT_NANO

    def body(self, *, stream: bool, max_tokens: int | None) -> dict[str, Any]:
        """The request's body. Its message is longer than `input_tokens`, as UTF-8 is than tokens."""
        fields = (
            f"marker={self.marker} do={self.do} ms={self.delay_ms} chunks={self.chunks} "
            f"in={self.input_tokens} out={self.output_tokens}"
        )
        body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": fields}]}
        if stream:
            body["stream"] = True
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        return body


def read_plan(body: bytes) -> Plan:
    """The plan that a body carries."""
    found = _SAID.search(body)
    assert found is not None, body
    marker, do, *numbers = found.groups()
    return Plan(marker.decode(), do.decode(), *map(int, numbers))
