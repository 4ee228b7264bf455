"""The console on a port of its own, an organization with one person of each role, and their browsers."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from billing.api.services import Services
from billing.web.application import setup
from tests.billing.api.conftest import people, registry, services
from tests.billing.identity.sessions_support import People
from tests.billing.identity.support import join, new_organization, new_user
from tests.billing.support import Billing
from tests.billing.web.support import Console

__all__ = ["people", "registry", "services"]


@pytest.fixture
async def console(services: Services, billing: Billing, people: People) -> AsyncIterator[Console]:
    persons = {name: await new_user(billing, f"{name}@example.com") for name in ("owner", "stranger", "operator")}
    organization = await new_organization(billing, "Acme", persons["owner"], plan="starter")
    await new_organization(billing, "Other", persons["stranger"])
    for role in ("viewer", "member", "admin"):
        persons[role] = await new_user(billing, f"{role}@example.com")
        await join(billing, organization, persons[role], role)  # type: ignore[arg-type]
    await billing.database.execute(
        "UPDATE users SET operator = true, totp_secret = 'x', totp_confirmed_at = now() WHERE id = $1",
        persons["operator"],
    )
    app = web.Application()
    setup(app, services)
    async with TestClient(TestServer(app)) as client:
        yield Console(client, billing, services, people, organization, persons)
