"""The whole OpenAPI document, tried by schemathesis with all of its checks, as each kind of caller."""

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import Final

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


async def run(folder: Path, url: str, *options: str) -> tuple[int, str]:
    program = Path(sys.executable).with_name("schemathesis")
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
        env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.support.api_formats", "PYTHONPATH": str(Path.cwd())},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


@pytest.mark.parametrize("who", ["nobody", "key", "person", "service", "admin"])
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
    code, output = await run(tmp_path, gateway.url, *options)
    assert code == 0, output
