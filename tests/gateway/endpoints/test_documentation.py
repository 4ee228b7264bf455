"""The page on the API: it names every route, header and error that there is, and leads nowhere else."""

import ast
import re
from pathlib import Path

from gateway.endpoints import site
from gateway.server import refusals
from gateway.server.cors import EXPOSED
from gateway.server.ids import BALANCE, COST, REQUEST_ID, UPSTREAM_REQUEST_ID

ROOT = Path(refusals.__file__).parents[2]
PAGE = (site.PAGES / "api.md").read_text("utf-8")


def raised_codes() -> set[tuple[int, str]]:
    """Every (status, code) with which the code refuses: `Refusal(429, "code", ...)`, and the billing API's classes."""
    found = set()
    for path in (*(ROOT / "gateway").rglob("*.py"), *(ROOT / "billing" / "api").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            constants: list[object] = []
            if isinstance(node, ast.Call):
                if getattr(node.func, "id", "") in ("Refusal", "error_response"):
                    constants = [each.value for each in node.args[:2] if isinstance(each, ast.Constant)]
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
                names = [getattr(each, "id", "") for target in node.targets for each in getattr(target, "elts", ())]
                if names == ["status", "code"]:
                    constants = [each.value for each in node.value.elts if isinstance(each, ast.Constant)]
            match constants:
                case [int(status), str(code)]:
                    found.add((status, code))
    return found


def test_every_error_is_told_with_what_to_do():
    codes = raised_codes()
    assert {(401, "invalid_api_key"), (502, "upstream_error"), (409, "idempotency_conflict")} <= codes
    assert len(codes) > 15
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    told = {(int(status), code) for status, code, *_ in rows}
    assert codes <= told


async def test_every_route_is_listed(gateway):
    routes = {
        (route.method, route.resource.canonical.replace("/api/v1/billing/", "/api/billing/"))
        for route in gateway.app.router.routes()
        if route.resource is not None
        and route.resource.canonical != "/{path}"
        and not route.resource.canonical.startswith(("/console/", "/docs/"))  # pages for people
    }
    assert ("POST", "/v1/chat/completions") in routes
    assert ("GET", "/api/account/balance") in routes
    missing = [f"{method} {path}" for method, path in routes if method != "HEAD" and f"`{method} {path}`" not in PAGE]
    assert missing == []
    listed = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^` ]*)`\]?\(?#?", PAGE.partition("## Conventions")[0]))
    assert listed <= routes


def test_every_header_of_ours_is_told():
    names = {REQUEST_ID, UPSTREAM_REQUEST_ID, COST, BALANCE, *EXPOSED.split(", ")}
    assert [name for name in names if f"`{name}" not in PAGE.replace("Retry-After", "retry-after")] == []


def test_its_links_lead_somewhere():
    anchors = {site.anchor(heading) for heading in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)}
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert link.startswith("https://") or link.removeprefix("#") in anchors or f"`GET {link}`" in PAGE, link
