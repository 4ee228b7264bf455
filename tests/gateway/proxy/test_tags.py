"""What a request is attributed to: its key's tags, a header's, and the metadata of its body."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.schemas.keys import MAX_TAG_NAME, MAX_TAG_VALUE, MAX_TAGS
from gateway.dialects.body import MAX_METADATA, BadRequest
from gateway.dialects.openai.dialect import CHAT, parse
from gateway.proxy.intake import read_tags, request_tags
from tests.gateway.conftest import chat
from tests.support.gateways import ask, assert_free, fetch, the_event

TEXTS = st.dictionaries(st.text(), st.text(max_size=300), max_size=40)


def test_a_header_is_read_in_pairs():
    assert read_tags(["team=search, feature=a b", " ", "env = prod ,"]) == {
        "team": "search", "feature": "a b", "env": "prod",
    }  # fmt: skip


@pytest.mark.parametrize(
    "header",
    [
        "team",
        "=search",
        "te am=x",
        "team=a,team=b",
        "team=\udcff",
        f"{'n' * (MAX_TAG_NAME + 1)}=x",
        f"team={'v' * (MAX_TAG_VALUE + 1)}",
        ",".join(f"t{number}=x" for number in range(MAX_TAGS + 1)),
    ],
)
def test_a_header_that_can_t_be_read_is_refused(header):
    with pytest.raises(BadRequest) as refused:
        read_tags([header])
    assert refused.value.param == "X-Metergate-Tags"
    assert "team=search" in refused.value.message


def test_the_key_s_own_tags_go_before_the_client_s():
    made = request_tags({"team": "key"}, {"team": "header", "env": "header"}, {"env": "body", "more": "body"})
    assert json.loads(made or "") == {"team": "key", "env": "header", "more": "body"}
    assert request_tags({}, {}, {}) is None


@given(TEXTS, TEXTS)
def test_tags_are_bounded_and_can_be_stored(named, metadata):
    tags = json.loads(request_tags({}, named, metadata) or "{}")
    assert len(tags) <= MAX_TAGS
    for name, value in tags.items():
        assert 0 < len(name) <= MAX_TAG_NAME
        assert len(value) <= MAX_TAG_VALUE
        assert "\0" not in name + value


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        ({"team": "search", "number": 3, "deep": {"a": "b"}}, {"team": "search"}),
        (None, {}),
        (["team"], {}),
        ("team", {}),
        ({f"t{number}": "x" for number in range(20)}, {f"t{number}": "x" for number in range(MAX_METADATA)}),
        ({"a": "x\0"}, {"a": "x\ufffd"}),
    ],
)
def test_metadata_is_kept_where_it_is_text(metadata, kept):
    assert parse(CHAT, json.dumps(chat(metadata=metadata)).encode()).metadata == kept


async def test_a_request_is_attributed(gateway):
    customer = await gateway.customer("5.00", tags={"team": "key"})
    body = chat(metadata={"feature": "answers"}, safety_identifier="person-1", max_tokens=5)
    headers = {"X-Metergate-Tags": "env=prod,team=other"}
    assert (await fetch(customer.post(body=body, headers=headers))).status == 200
    event = await the_event(customer)
    assert event["tags"] == {"team": "key", "env": "prod", "feature": "answers"}
    assert event["end_user"] == "person-1"


async def test_tags_of_one_request_are_not_another_s(gateway):
    customer = await gateway.customer("5.00")
    headers = {"X-Metergate-Tags": "env=prod"}
    assert (await fetch(customer.post(body=chat(max_tokens=5), headers=headers))).status == 200
    assert (await ask(customer, chat(max_tokens=5))).status == 200
    assert [event["tags"] for event in await customer.events()] == [{"env": "prod"}, {}]


async def test_tags_that_can_t_be_read_cost_nothing(gateway):
    customer = await gateway.customer("5.00")
    refused = await fetch(customer.post(body=chat(), headers={"X-Metergate-Tags": "prod"}))
    assert (refused.status, refused.json["error"]["param"]) == (400, "X-Metergate-Tags")
    await assert_free(customer)
