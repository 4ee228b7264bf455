"""Objects that answers of the Responses API tell of."""

import json

import pytest

from gateway.dialects.openai_responses.dialect import RESPONSES_CREATION


@pytest.mark.parametrize("object_id", ["", "a" * 201, "resp 1", "resp\u0000", "resp\n", "répondre"])
def test_an_object_whose_id_can_not_be_kept_is_none(object_id):
    body = json.dumps({"id": object_id, "object": "response", "status": "completed"}).encode()
    assert RESPONSES_CREATION.of_answer(body) is None
    kept = RESPONSES_CREATION.of_answer(body.replace(json.dumps(object_id).encode(), b'"resp_1"'))
    assert kept.object_id == "resp_1"
