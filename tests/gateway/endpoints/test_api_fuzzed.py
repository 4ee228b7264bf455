"""The whole OpenAPI document, tried by schemathesis with all of its checks, each operation as every kind of caller.

As those who may call it, it is tried with everything that its schemas tell apart; as those who may not, once, for it is
refused before it is looked at.
"""

import asyncio
import json
import os
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from tests.gateway.conftest import ADMIN_KEY, Gateway, MakeGateway
from tests.support.gateways import fetch
from tests.support.metering_service import SERVICE_KEY, with_meters

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("METERGATE_TEST_FUZZ_EXAMPLES", "1"))
# What the gateway answers by itself; bodies of providers' APIs are not described.
OUR_OWN = (
    "--include-path-regex",
    "^/(api|healthz|health|readyz|docs|.well-known|v1/(key|status|jobs|generations))",
)
# By which of the document's schemes each caller shows who it is; nobody shows nothing.
SCHEMES = {"key": "bearer", "person": "person", "service": "serviceKey", "admin": "adminKey"}
CALLERS = ("nobody", *SCHEMES)
# Operations by which a person can end what they are signed in by: another person, `leaver`, tries them.
ENDS_SESSIONS = re.compile(r"/api/(auth|orgs)\b")
# Keys that are none are not made up: who has no valid one is refused before anything else is looked at, which each
# operation's check of its security sees. The router refuses all methods that a path does not have alike.
LESS = (
    "[auth]",
    "auto-signup = false",
    "[generation]",
    "with-security-parameters = false",
    "[phases.coverage]",
    'unexpected-methods = ["trace"]',
)
# Where Hypothesis keeps tables of characters, which take it seconds to make: one place for all runs.
STORAGE = Path.cwd() / ".hypothesis"


def may_call(who: str, operation: dict[str, Any]) -> bool:
    """Return whether an operation is for this caller. What takes the admin key is for operators, who have it here."""
    schemes = {scheme for alternative in operation["security"] for scheme in alternative}
    if who == "nobody":
        return not schemes
    return SCHEMES[who] in schemes and (who == "admin" or SCHEMES["admin"] not in schemes)


def callers_of(operations: dict[str, dict[str, Any]], place: int) -> dict[str, list[str]]:
    """Return which operations each caller tries who is the first, second, ... of those who may call them."""
    of_each = defaultdict[str, list[str]](list)
    for name, operation in operations.items():
        for who in [who for who in CALLERS if may_call(who, operation)][place : place + 1]:
            of_each["leaver" if who == "person" and ENDS_SESSIONS.search(name) else who].append(name)
    return of_each


def configuration(of_each: dict[str, list[str]], headers: dict[str, dict[str, str]]) -> str:
    """Return schemathesis's configuration, in which each operation is called by the caller whose it is."""
    lines = []
    for who, names in of_each.items():
        lines += ["[[operations]]", f"include-name = {json.dumps(names)}", "[operations.headers]"]
        lines += [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in headers[who].items()]
    return "\n".join([*LESS, *lines])


async def run(folder: Path, url: str, *selected: str) -> tuple[int, str]:
    program = Path(sys.executable).with_name("schemathesis")
    variables = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        str(program),
        "run",
        f"{url}/api/openapi.json",
        "--checks",
        "all",
        "--max-examples",
        str(EXAMPLES),
        "--continue-on-failure",
        "--generation-deterministic",
        "--warnings",
        "off",
        "--no-color",
        "--generation-allow-x00",
        "false",
        *selected,
        cwd=folder,
        env=variables
        | {
            "SCHEMATHESIS_HOOKS": "tests.support.api_formats",
            "PYTHONPATH": str(Path.cwd()),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(STORAGE),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


@dataclass(frozen=True)
class World:
    """A gateway, what each caller shows it, and its operations by method and path."""

    gateway: Gateway
    headers: dict[str, dict[str, str]]
    operations: dict[str, dict[str, Any]]


@pytest.fixture
async def world(make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch) -> World:
    cheap = partial(PasswordHasher, time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr("billing.identity.passwords.PasswordHasher", cheap)
    gateway = await make_gateway(failed_attempts=1_000_000, change=with_meters)
    customer = await gateway.customer()
    headers: dict[str, dict[str, str]] = {
        "nobody": {},
        "key": {"Authorization": f"Bearer {customer.key}"},
        "person": {"Authorization": f"Bearer {await gateway.person(customer.account_id)}"},
        "leaver": {"Authorization": f"Bearer {await gateway.person((await gateway.customer()).account_id)}"},
        "service": {"X-API-Key": SERVICE_KEY, "X-Service-Name": "aura"},
        "admin": {"X-Admin-Key": ADMIN_KEY},
    }
    paths = (await fetch(gateway.session.get(f"{gateway.url}/api/openapi.json"))).json["paths"]
    operations = {
        f"{method.upper()} {path}": each for path, methods in paths.items() for method, each in methods.items()
    }
    return World(gateway, headers, operations)


@pytest.mark.parametrize(
    ("place", "phases"),
    [
        (0, "examples,fuzzing"),
        pytest.param(0, "coverage", marks=pytest.mark.nightly),
        pytest.param(1, "examples,coverage,fuzzing", marks=pytest.mark.nightly),
    ],
)
async def test_no_answer_is_undocumented(world, tmp_path, place, phases):
    of_each = callers_of(world.operations, place)
    assert of_each
    assert not callers_of(world.operations, place=2), "a third kind of caller needs a row above"
    (tmp_path / "schemathesis.toml").write_text(configuration(of_each, world.headers))
    names = [f"--include-name={name}" for each in of_each.values() for name in each]
    selected = names if place else OUR_OWN
    code, output = await run(tmp_path, world.gateway.url, "--phases", phases, *selected)
    assert code == 0, output


async def test_no_refusal_is_undocumented(world):
    """What each caller may not call, and what is not there."""
    for name, operation in world.operations.items():
        method, path = name.split(" ")
        url = world.gateway.url + re.sub(r"\{[^}]*\}", "x", path)
        for who in CALLERS:
            if may_call(who, operation):
                continue
            told = await fetch(world.gateway.session.request(method, url, json={}, headers=world.headers[who]))
            assert str(told.status) in operation["responses"], (name, who, told)
            if told.status >= 400:
                assert {"message", "code"} <= told.json["error"].keys(), (name, who, told)
