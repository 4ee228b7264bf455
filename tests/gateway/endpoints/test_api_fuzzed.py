"""The whole OpenAPI document, tried by schemathesis with all of its checks, as each kind of caller.

What a caller may call is tried with everything that its schemas tell apart; what it may not, with an example, for it is
refused before it is looked at.
"""

import asyncio
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from argon2 import PasswordHasher

from tests.gateway.conftest import ADMIN_KEY, MakeGateway
from tests.gateway.test_metering import SERVICE_KEY, with_meters

pytestmark = pytest.mark.slow

EXAMPLES: Final = int(os.environ.get("METERGATE_TEST_FUZZ_EXAMPLES", "1"))
OUR_OWN: Final = (
    "--include-path-regex",
    "^/(api|healthz|health|readyz|docs|.well-known|v1/(key|status|jobs|generations))",
)
"""What the gateway answers by itself; bodies of providers' APIs are not described."""
SCHEMES: Final = {"key": "bearer", "person": "person", "service": "serviceKey", "admin": "adminKey"}
"""By which of the document's schemes each caller shows who it is; nobody shows nothing."""
CALLERS: Final = ("nobody", *SCHEMES)
STORAGE: Final = Path.cwd() / ".hypothesis"
"""Where Hypothesis keeps tables of characters, which take it seconds to make: one place for all runs."""


def may_call(who: str, operation: dict[str, Any]) -> bool:
    """Return whether an operation is for this caller. What takes the admin key is for operators, who have it here."""
    schemes = {scheme for alternative in operation["security"] for scheme in alternative}
    if who == "nobody":
        return not schemes
    return SCHEMES[who] in schemes and (who == "admin" or SCHEMES["admin"] not in schemes)


def configuration(who: str, operations: dict[str, dict[str, Any]]) -> str:
    """Return schemathesis's configuration, in which only what a caller may call is tried whole."""
    refused = [name for name, operation in operations.items() if not may_call(who, operation)]
    return "\n".join(
        (
            "[auth]",
            "auto-signup = false",
            "[[operations]]",
            f"include-name = {json.dumps(refused)}",
            "phases.coverage.enabled = false",
            "phases.examples.enabled = false",
        )
    )


async def run(folder: Path, url: str, *options: str) -> tuple[int, str]:
    program = Path(sys.executable).with_name("schemathesis")
    variables = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        str(program),
        "run",
        f"{url}/api/openapi.json",
        *("--checks", "all", "--max-examples", str(EXAMPLES), "--continue-on-failure", "--generation-deterministic"),
        *("--phases", "examples,coverage,fuzzing"),
        *("--warnings", "off", "--no-color", "--generation-allow-x00", "false"),
        *OUR_OWN,
        *options,
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


@pytest.mark.parametrize("who", CALLERS)
async def test_no_answer_is_undocumented(
    make_gateway: MakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    cheap = partial(PasswordHasher, time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr("billing.identity.passwords.PasswordHasher", cheap)
    gateway = await make_gateway(failed_attempts=1_000_000, change=with_meters)
    customer = await gateway.customer()
    token = await gateway.person(customer.account_id)
    options = {
        "nobody": (),
        "key": ("-H", f"Authorization: Bearer {customer.key}"),
        "person": ("-H", f"Authorization: Bearer {token}"),
        "service": ("-H", f"X-API-Key: {SERVICE_KEY}", "-H", "X-Service-Name: aura"),
        "admin": ("-H", f"X-Admin-Key: {ADMIN_KEY}"),
    }[who]
    async with gateway.session.get(f"{gateway.url}/api/openapi.json") as answer:
        paths = (await answer.json())["paths"]
    operations = {
        f"{method.upper()} {path}": each for path, methods in paths.items() for method, each in methods.items()
    }
    assert all(any(may_call(each, operation) for each in CALLERS) for operation in operations.values())
    (tmp_path / "schemathesis.toml").write_text(configuration(who, operations))
    code, output = await run(tmp_path, gateway.url, *options)
    assert code == 0, output
