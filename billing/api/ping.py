"""/api/ping: which image runs, from the variable IMAGE. Nothing is made up: what can't be read stays empty."""

import re
from dataclasses import asdict, dataclass
from typing import Final

from aiohttp import web

from billing.api.services import SERVICES, Route
from billing.api.shapes import answer

_IMAGE: Final = re.compile(
    r"(?P<name>[^\s:@]+(?::\d+(?=/)[^\s:@]*)?):(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_COMMIT: Final = re.compile(r"sha-([0-9a-f]{40})")


@dataclass(frozen=True, slots=True)
class ImageIdentity:
    """`registry/name:sha-<40 hex>` gives all four; another tag gives no commit and is the version itself."""

    image: str = ""
    tag: str = ""
    commit: str = ""
    version: str = ""


def image_identity(image: str) -> ImageIdentity:
    """What an image's name says; all empty when it is missing or malformed."""
    match = _IMAGE.fullmatch(image)
    if match is None:
        return ImageIdentity()
    tag = match["tag"]
    sha = _COMMIT.fullmatch(tag)
    commit = sha[1] if sha else ""
    return ImageIdentity(image, tag, commit, commit or tag)


async def ping(request: web.Request) -> web.Response:
    """GET /api/ping"""
    return answer(asdict(image_identity(request.app[SERVICES].image)))


ROUTES: Final[list[Route]] = [("GET", "/ping", ping)]
