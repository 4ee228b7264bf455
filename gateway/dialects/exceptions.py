"""What a dialect raises: the client's body can't be read, or the provider's is not what its endpoint promises."""

from __future__ import annotations

from billing.errors import MetergateError


class BadRequest(MetergateError):
    """A request that can't be read. `message` is fit for the client; `param` names the field where one is to blame."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class GarbageAnswer(MetergateError):
    """An answer that is not what the endpoint promises: not a JSON object, or half of one."""
