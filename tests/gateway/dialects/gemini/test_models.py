"""How models are listed for Gemini's clients."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.config.providers import ModelConfig
from gateway.config.settings import Settings
from gateway.dialects.body import BadRequest
from gateway.dialects.gemini.dialect import GeminiModels
from tests.gateway.conftest import Customer
from tests.support.gateways import Fetched, fetch


class Model:
    """A model as the gateway lists it."""

    created = 0

    def __init__(self, name: str, limit: int | None = 100) -> None:
        self.id = name
        self.owned_by = "gemini"
        self.max_output_tokens = self.context_window = limit


MODELS: Any = [Model("a"), Model("b-embedding", None), Model("c")]


def test_a_model():
    found = GeminiModels().listed(MODELS, {})
    assert found.keys() == {"models"}
    assert found["models"][0] == {
        "name": "models/a",
        "version": "a",
        "displayName": "a",
        "inputTokenLimit": 100,
        "outputTokenLimit": 100,
        "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens"],
    }
    assert "inputTokenLimit" not in found["models"][1]
    assert "embedContent" in found["models"][1]["supportedGenerationMethods"]


def test_pages():
    query, names = {"pageSize": "2"}, []
    while True:
        page = GeminiModels().listed(MODELS, query)
        names += [each["displayName"] for each in page["models"]]
        if "nextPageToken" not in page:
            break
        query["pageToken"] = page["nextPageToken"]
    assert names == ["a", "b-embedding", "c"]


@pytest.mark.parametrize("query", [{"pageSize": "-1"}, {"pageSize": "x"}, {"pageSize": "5000"}, {"pageToken": "z"}])
def test_a_page_that_is_not_there_is_refused(query):
    with pytest.raises(BadRequest):
        GeminiModels().listed(MODELS, query)


def _with_colon(settings: Settings) -> Settings:
    models = {**settings.models, "tiny:8b": ModelConfig("tiny:8b", "local", "demo")}
    return replace(settings, models=models)


async def get(customer: Customer, path: str, **headers: str) -> Fetched:
    return await fetch(customer.gateway.session.get(customer.gateway.url + path, headers=headers))


async def test_a_key_sees_what_it_may_use(make_gateway):
    customer = await (await make_gateway(change=_with_colon)).customer()
    google = {"x-goog-api-key": customer.key}
    for path in ("/v1beta/models", "/v1/models", "/v1beta/models?pageSize=50"):
        found = await get(customer, path, **google)
        assert "models/demo" in [each["name"] for each in found.json["models"]], path
    assert (await get(customer, f"/v1/models?key={customer.key}")).json.keys() == {"models"}
    assert (await get(customer, "/v1beta/models", Authorization=f"Bearer {customer.key}")).json.keys() == {"models"}
    bearer = {"Authorization": f"Bearer {customer.key}"}
    assert (await get(customer, "/v1/models", **bearer)).json["object"] == "list"
    assert (await get(customer, "/v1/models/tiny:8b", **bearer)).json["object"] == "model"
    assert (await get(customer, "/v1beta/models/demo", **google)).json["name"] == "models/demo"
    missing = await get(customer, "/v1beta/models/nothing", **google)
    assert (missing.status, missing.json["error"]["status"]) == (404, "NOT_FOUND")
    nobody = await get(customer, "/v1beta/models")
    assert (nobody.status, nobody.json["error"]["status"]) == (401, "UNAUTHENTICATED")
    wrong = await get(customer, "/v1beta/models?pageSize=x", **google)
    assert (wrong.status, wrong.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
