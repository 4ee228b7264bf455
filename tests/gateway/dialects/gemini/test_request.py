"""What a request to Gemini's API asks for at most."""

import base64

import pytest

from gateway.dialects.body import BadRequest
from gateway.dialects.facts import NO_PARTS, NO_WORK
from gateway.dialects.gemini.request import SEARCHES
from tests.gateway.dialects.gemini.support import ASKED, MODEL, asked, body_of, parsed, with_part
from tests.support.tables import Tables

TABLES = Tables(__file__)

DATA = base64.b64encode(bytes(300)).decode()


def refused(body: object, method: str = "generateContent", **head: str) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parsed(body, method, **head)
    return caught.value


def test_a_plain_request():
    body = body_of(ASKED)
    found = parsed(body)
    assert (found.model, found.operation, found.stream, found.has_output) == (
        MODEL,
        "v1beta:generateContent",
        False,
        True,
    )
    assert (found.choices, found.max_output_tokens, found.max_fields) == (1, None, ())
    assert (found.input_bound_tokens, found.bound_input_tokens(None)) == (len(body), len(body))
    assert (found.parts, found.work, found.unbounded_input, found.include_usage) == (NO_PARTS, NO_WORK, False, True)
    assert parsed(body, "streamGenerateContent").stream


@TABLES.each("what_is_in_the_body_is_bounded_by_it")
def test_what_is_in_the_body_is_bounded_by_it(body):
    found = parsed(body)
    assert (found.parts, found.work, found.unbounded_input) == (NO_PARTS, NO_WORK, False)


@TABLES.each("output_is_bounded_by_the_configuration")
def test_output_is_bounded_by_the_configuration(config, most, choices):
    found = parsed(asked(generationConfig=config))
    assert (found.max_output_tokens, found.choices) == (most, choices)
    assert found.max_fields == (("maxOutputTokens",) if most is not None else ())


@TABLES.each("a_configuration_that_bounds_nothing_is_refused")
def test_a_configuration_that_bounds_nothing_is_refused(config):
    refused(asked(generationConfig=config))


@pytest.mark.parametrize(
    "body",
    [
        b'{"contents":[],"contents":[]}',
        b'{"contents":[{"parts":[{"text":"a"}]}],"Contents":[]}',
        b'{"contents":[{"parts":[{"text":"a","text":"b"}]}]}',
        b'{"contents":[{"parts":[{"inlineData":{},"inline_data":{}}]}]}',
        b'{"contents":[],"generationConfig":{"maxOutputTokens":5,"maxOutputTokens":50000}}',
        b'{"contents":[],"generationConfig":{},"generation_config":{"maxOutputTokens":50000}}',
        b'{"contents":[],"generationConfig":{"maxOutputTokens":5,"maxOutputTokens":9}}',
        b'{"contents":[{"parts":[{"text":5}]}]}',
        b'{"contents":"a text"}',
        b'{"contents":[1e999]}',
        b'{"contents":[],"model":"models/gemini-2.5-pro"}',
        b'{"contents":[],"x":1e999}',
        b'{"contents":[],"x":NaN}',
        b"[]",
        b"{}",
        b"",
        b'\xff{"contents":[]}',
    ],
)
def test_spelling_tricks_are_refused(body):
    refused(body)


def test_the_body_may_repeat_the_model_of_the_path():
    assert parsed(asked(model=f"models/{MODEL}")).model == MODEL


@TABLES.each("inline_data_is_counted")
def test_inline_data_is_counted(part, parts):
    found = parsed(with_part(**part))
    assert (found.parts, found.unbounded_input) == (parts, False)


@TABLES.each("what_its_bytes_do_not_bound_is_bounded_by_the_context_window")
def test_what_its_bytes_do_not_bound_is_bounded_by_the_context_window(part):
    found = parsed(with_part(**part))
    assert found.unbounded_input
    assert found.bound_input_tokens({"image": 1, "file": 1}) is None


@pytest.mark.parametrize(
    "uri",
    [
        "https://generativelanguage.googleapis.com/v1beta/files/abc",
        "https://GenerativeLanguage.GoogleAPIs.com./v1beta/files/abc",
        "https://a@generativelanguage.googleapis.com/v1beta/files/abc",
        "https://example.com\\@generativelanguage.googleapis.com/files/abc",
        "https://storage.cloud.google.com/bucket/a",
        "gs://bucket/a",
        "files/abc",
        "",
        "https://[::1",
        5,
    ],
)
def test_what_is_stored_at_the_provider_is_refused(uri):
    refused(with_part(fileData={"fileUri": uri}))


def test_what_goes_on_elsewhere_is_bounded_by_the_context_window():
    assert parsed(asked(continuationToken="abc")).unbounded_input


@TABLES.each("tools_that_run_at_the_provider_are_bounded")
def test_tools_that_run_at_the_provider_are_bounded(tools, work):
    assert parsed(asked(tools=tools)).work == work


def test_later_models_may_search_often():
    assert parsed(asked(tools=[{"googleSearch": {}}]), model="gemini-3-pro").work.searches == SEARCHES
    assert parsed(asked(tools=[{"googleSearch": {}}]), model="fast").work.searches == SEARCHES


@pytest.mark.parametrize(
    "name",
    [
        "fileSearch",
        "file_search",
        "mcpServers",
        "retrieval",
        "googleMaps",
        "google_maps",
        "exaAiSearch",
        "GoogleSearch",
    ],
)
def test_a_tool_that_can_t_be_metered_is_refused(name):
    assert refused(asked(tools=[{name: {}}])).param == "tools"


def test_stored_contents_are_refused():
    assert refused(asked(cachedContent="cachedContents/abc")).param == "cachedContent"
    assert refused(asked(cached_content="cachedContents/abc")).param == "cachedContent"
    refused(asked(mcpServers=[{}]))


def test_spoken_answers_and_service_tiers_are_seen():
    assert parsed(asked(generationConfig={"responseModalities": ["Text", "Audio"]})).work.audio
    assert parsed(asked(serviceTier="SERVICE_TIER_PRIORITY")).service_tier == "priority"
    assert parsed(asked(service_tier="flex")).service_tier == "flex"
    assert parsed(asked(serviceTier="unspecified")).service_tier is None


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent", "countTokens"])
def test_answers_that_can_t_be_read_are_not_asked_for(method):
    for query in ("?alt=proto", "?alt=media", "?ALT=proto", "?alt=sse&alt=proto", "?%61lt=proto", "?alt="):
        assert refused(ASKED, method, query=query).param == "alt"
    assert parsed(ASKED, method, query="?alt=json&x=1") is not None
    if method == "streamGenerateContent":
        assert parsed(ASKED, method, query="?alt=sse") is not None
    else:
        refused(ASKED, method, query="?alt=sse")


def test_embeddings():
    content = {"parts": [{"text": "Hello."}]}
    found = parsed({"model": f"models/{MODEL}", "content": content, "taskType": "X"}, "embedContent")
    assert (found.has_output, found.choices, found.unbounded_input) == (False, 1, False)
    batch = {"requests": [{"model": f"models/{MODEL}", "content": content}, {"content": content}]}
    assert parsed(batch, "batchEmbedContents").input_bound_tokens == len(body_of(batch))
    image = {"parts": [{"inlineData": {"mimeType": "image/png", "data": DATA}}]}
    assert parsed({"requests": [{"content": image}]}, "batchEmbedContents").parts.images == 1
    refused({"requests": [{"model": "models/other", "content": content}]}, "batchEmbedContents")
    refused({"requests": [{}]}, "batchEmbedContents")
    refused({}, "batchEmbedContents")
    refused({}, "embedContent")


def test_tokens_are_counted_of_anything():
    assert not parsed({"contents": []}, "countTokens").has_output
    nested = {"generateContentRequest": {"model": f"models/{MODEL}", **ASKED}}
    assert parsed(nested, "countTokens").model == MODEL
    refused({"generateContentRequest": {"model": "models/other"}}, "countTokens")
