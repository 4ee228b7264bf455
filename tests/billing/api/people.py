"""What tests of /api/auth do as people: calls, registering, signing up."""

from typing import Any

from tests.billing.api.support import Answer, Api
from tests.billing.people_support import ADA, GOOD, Registry

WRONG = "invalid_api_key"


async def post(api: Api, path: str, bearer: str | None = None, /, **body: Any) -> Answer:
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    return await api.call("POST", f"/api/auth{path}", json=body, headers=headers)


async def who(api: Api, token: str) -> Answer:
    return await api.call("GET", "/api/auth/me", headers={"Authorization": f"Bearer {token}"})


async def register(api: Api, email: str = ADA, password: str | None = GOOD) -> str:
    """Register; the challenge."""
    asked = await post(api, "/register", email=email, password=password, name="Ada Byron")
    assert asked.status == 202, asked.json
    return str(asked.json["challenge"])


async def signed_up(api: Api, registry: Registry, email: str = ADA) -> str:
    """Register and verify; the access token."""
    challenge = await register(api, email)
    answer = await post(api, "/verify", email=email, code=await registry.mailed_code(email), challenge=challenge)
    assert answer.status == 200, answer.json
    return str(answer.json["access_token"])
