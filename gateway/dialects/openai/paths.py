"""OpenAI's format, the paths: which operation a request is sent to, also by the paths of Azure's client.

Azure's client names the model of most operations in the path, and that name alone counts; others stand without one
(https://learn.microsoft.com/azure/ai-foundry/openai/reference). What it calls is served at its own path and below
`/azure`, so that its endpoint is this gateway's address with or without that.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from gateway.dialects.base import Endpoint

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
MODERATIONS: Final = "/v1/moderations"
# The parameter of a path that names the model.
DEPLOYMENT: Final = "model"
_VERSION: Final = "/v1"
_AZURE: Final = ("/openai", "/azure/openai")


def with_azure(
    operations: Iterable[str], *, free: bool = False, writes: bool = True, deployed: bool = True
) -> Iterator[Endpoint]:
    """Give the endpoints of some operations, which are named by their paths here: those, and Azure's of each.
    `deployed` says that Azure's client names the model in the path."""
    deployment = f"/deployments/{{{DEPLOYMENT}}}" if deployed else ""
    for operation in operations:
        for path in paths_of(operation, deployment):
            yield Endpoint(path, operation, free=free, writes=writes)


def paths_of(path: str, deployment: str = "") -> Iterator[str]:
    """Give a path, and those of Azure's client for the same; `deployment` stands in those without a version."""
    yield path
    for base in _AZURE:
        yield base + path
        yield f"{base}{deployment}{path.removeprefix(_VERSION)}"
        if deployment and path == MODERATIONS:  # which AzureOpenAI sends without a deployment
            yield base + path.removeprefix(_VERSION)
