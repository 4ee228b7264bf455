"""Gemini's endpoints, the fields of a request that are changed, and the envelope of errors."""

import json
from typing import Any

import pytest

from gateway.dialects.base import Changes
from gateway.dialects.body import StructureBounds
from gateway.dialects.openai.dialect import OpenAIDialect
from gateway.dialects.registry import Dialects, make_dialects
from gateway.server.limit_refusals import Refusal
from tests.gateway.dialects.gemini.support import ASKED, DIALECT, MODEL, Head, asked, body_of
from tests.support.tables import Tables

TABLES = Tables(__file__)

DIALECTS = Dialects([DIALECT, OpenAIDialect()])


@pytest.mark.parametrize("version", ["v1beta", "v1"])
@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent", "countTokens", "batchEmbedContents"])
def test_the_version_and_the_method_are_the_client_s(version, method):
    match = DIALECTS.find("POST", f"/{version}/models/{MODEL}:{method}?alt=sse&key=x", {})
    assert match.parameters == {"model": MODEL}
    assert DIALECT.upstream_path(match, "gemini-2.5-pro") == f"/{version}/models/gemini-2.5-pro:{method}"
    assert match.endpoint.free == (method == "countTokens")


@pytest.mark.parametrize(
    "path",
    [
        "/v1beta/files",
        "/upload/v1beta/files",
        "/v1beta/cachedContents",
        "/v1alpha/auth_tokens",
        f"/v1beta/models/{MODEL}:batchGenerateContent",
        f"/v1/models/{MODEL}:predict",
        f"/v1beta/models/{MODEL}:asyncBatchEmbedContent",
        "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
        "/v1beta/interactions",
    ],
)
def test_what_can_t_be_metered_has_no_endpoint(path):
    assert DIALECTS.find("POST", path, {}) is None
    assert DIALECTS.owner(path, {}) is DIALECT


def test_a_shared_path_belongs_to_whoever_s_header_it_has():
    assert DIALECTS.owner("/v1/models", {"x-goog-api-key": "a"}) is DIALECT
    assert DIALECTS.owner("/v1/models", {"x-goog-api-client": "a"}) is DIALECT
    assert DIALECTS.owner("/v1/models?key=a", {}) is DIALECT
    for path in (
        "/v1/models",
        "/v1/models/llama3:8b",
        "/v1/models/a/b:free",
        "/v1/chat/completions",
        "/v1/files",
        "/v1",
        "/api/x?monkey=1",
    ):
        assert DIALECTS.owner(path, {}).name == "openai"


def test_it_is_registered():
    assert "gemini" in make_dialects(StructureBounds()).by_name


def rewritten(value: object, model: str | None = None, most: int | None = None) -> Any:
    body = body_of(value)
    made = DIALECT.rewrite(
        body,
        Changes(model=model, include_usage=True, max_output_tokens=most, max_field=DIALECT.max_field("", "max_tokens")),
    )
    return json.loads(made) if made is not body else None


def test_a_body_passes_where_nothing_changes():
    assert rewritten(ASKED) is None
    assert rewritten(ASKED, model="other") is None


@TABLES.each("a_maximum_is_sent_where_it_is_read")
def test_a_maximum_is_sent_where_it_is_read(before, after):
    assert rewritten(asked(**(before or {})), most=50) == asked(**after)


def test_a_name_in_the_body_is_replaced_too():
    assert rewritten(asked(model="models/a"), model="b") == asked(model="models/b")
    batch = {"requests": [{"model": "models/a", "content": {}}, {"model": "a"}, {}]}
    assert rewritten(batch, model="b") == {"requests": [{"model": "models/b", "content": {}}, {"model": "b"}, {}]}
    nested = {"generate_content_request": {"model": "models/a", "contents": []}}
    assert rewritten(nested, model="b") == {"generate_content_request": {"model": "models/b", "contents": []}}


def test_the_envelope_is_google_s():
    refusal = Refusal(429, "quota_exceeded", "No more.", param="a", extra={"quota": {"limit": 5}}, retry_after_s=30)
    error = json.loads(DIALECT.error_body(refusal, "R1"))["error"]
    kinds = [each["@type"].rpartition(".")[2] for each in error["details"]]
    assert (error["code"], error["message"], error["status"]) == (429, "No more.", "RESOURCE_EXHAUSTED")
    assert (kinds, error["quota"]) == (["ErrorInfo", "BadRequest", "RetryInfo"], {"limit": 5})
    assert error["details"][0]["metadata"] == {"code": "quota_exceeded", "request_id": "R1"}
    assert error["details"][-1]["retryDelay"] == "30s"


def test_a_head_names_its_endpoint():
    assert DIALECT.parse(Head(), body_of(ASKED)).model == MODEL


def test_texts_stand_alone():
    body = {"systemInstruction": {"parts": {"text": "Be brief."}}, "contents": [{"parts": [{"text": "A"}, {"x": 1}]}]}
    assert DIALECT.texts(body_of(body)) == [("Be brief.", 11), ("A", 3)]
    batch = {"requests": [{"content": {"parts": [{"text": "B"}]}}]}
    assert DIALECT.texts(body_of(batch)) == [("B", 3)]
    assert DIALECT.texts(b"") == []


def test_input_is_counted_without_its_data():
    body = {
        "contents": [
            {"role": "user", "parts": [{"text": "abc"}, {"inlineData": {"mimeType": "image/png", "data": "A" * 9}}]}
        ],
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
        "generationConfig": {"maxOutputTokens": 7},
    }
    tokens, inline = DIALECT.input_tokens(body_of(body), len)
    assert [(each.kind, each.size_bytes) for each in inline] == [("image", 9)]
    assert tokens >= len("abcf")
    assert DIALECT.input_tokens(b"\xff", len) == (1, [])
