"""The reference: each endpoint in one group, with what one sends it, and a form that says where that belongs."""

import re
from html import unescape

import msgspec
import pytest

from billing.api.application import ROUTES
from billing.api.openapi import document
from billing.api.operations import OPERATIONS
from billing.api.reference import GROUPS, group_of, sections


@pytest.fixture(scope="module")
def described():
    return msgspec.json.decode(document(ROUTES))


def test_every_endpoint_is_in_one_group_and_can_be_tried(described):
    shown = {name: sections(described, name) for name in GROUPS}
    for each in OPERATIONS:
        of = [name for name, text in shown.items() if f"<code>{each.path}</code>" in text]
        assert of == [group_of(each.path)]
        assert f'data-method="{each.method}" data-path="{each.path}"' in unescape(shown[of[0]])
    whole = "".join(shown.values())
    assert not any(f" {name}=" in whole for name in ("src", "srcset", "onclick", "style"))
    ids = re.findall(r' id="([^"]+)"', whole)
    assert len(set(ids)) == len(ids)


def test_a_form_says_where_each_field_belongs_and_who_may_call(described):
    text = sections(described, "operators")
    form = next(each for each in text.split("<form ") if 'data-path="/api/admin/accounts/{account_id}"' in each)
    assert 'name="account_id" data-in="path"' in form
    assert 'data-callers="adminKey person"' in form
    created = next(
        each
        for each in text.split("<form ")
        if each.startswith('data-try data-method="POST" data-path="/api/admin/accounts"')
    )
    assert "<textarea" in created
    assert "&quot;name&quot;" in created
