"""Filters: what they hold for, and which are none."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.scim.attributes import GROUPS, USERS, ScimError
from billing.scim.filters import MOST_CHARACTERS, compared, comparisons, holds, names_in, parse_filter, parse_path

ADA = {
    "id": "scu_1",
    "userName": "Ada@Example.com",
    "externalId": "00uA",
    "active": True,
    "name": {"familyName": "Byron", "givenName": "Ada"},
    "emails": [
        {"value": "ada@example.com", "type": "work", "primary": True},
        {"value": "ada@home.example", "type": "home"},
    ],
    "meta": {"created": "2026-11-25T12:00:00Z"},
}


@pytest.mark.parametrize(
    "text",
    [
        'userName eq "ada@example.com"',
        'USERNAME Eq "ADA@EXAMPLE.COM"',
        'urn:ietf:params:scim:schemas:core:2.0:User:userName eq "ada@example.com"',
        'externalId eq "00uA"',
        'not (externalId eq "00ua")',
        "active eq true",
        'active eq "True"',
        "active ne false",
        'name.familyName co "YRO"',
        'name.familyName sw "by" and name.givenName ew "a"',
        'emails co "@home"',
        'emails.value eq "ada@home.example"',
        'emails[type eq "work" and primary eq true]',
        'emails[type eq "work" and value ew "@example.com"]',
        'not (emails[type eq "work" and value ew "@home.example"])',
        "name.givenName pr and not (displayName pr)",
        'displayName pr or (userName sw "a" and externalId pr)',
        'meta.created ge "2026-11-25T12:00:00Z"',
        'meta.created lt "2026-11-26"',
        'meta.created eq "2026-11-25T13:00:00+01:00"',
        'displayName ne "Eve"',
        'userName gt "a" and userName le "b"',
        'id eq "scu_1"',
        'colour ne "red"',
    ],
)
def test_what_holds(text):
    assert holds(parse_filter(text), USERS, ADA)


@pytest.mark.parametrize(
    "text",
    [
        'userName eq "eve@example.com"',
        'externalId eq "00ua"',
        "active eq false",
        'emails[type eq "home" and primary eq true]',
        'colour eq "red"',
        "userName eq 5",
        "userName eq null",
        'name.colour eq "red"',
        'emails[colour eq "red"]',
        'colour[a eq "b"]',
        'active co "true"',
        'userName eq "a" and userName pr or displayName pr',
    ],
)
def test_what_does_not(text):
    assert not holds(parse_filter(text), USERS, ADA)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "userName",
        "userName eq",
        'userName is "a"',
        'userName eq "a',
        'userName eq "a" and',
        'userName eq "a" userName eq "b"',
        '(userName eq "a"',
        'userName eq "a")',
        'not userName eq "a"',
        'emails[type eq "work"',
        "userName eq 'a'",
        "userName eq [1]",
        '"a" eq userName',
        'userName eq "\\x"',
        "a" * (MOST_CHARACTERS + 1),
        "(" * 50 + 'a eq "b"' + ")" * 50,
        " or ".join(['a eq "b"'] * 51),
    ],
)
def test_what_is_no_filter(text):
    with pytest.raises(ScimError) as raised:
        parse_filter(text)
    assert raised.value.type == "invalidFilter"


def test_a_time_that_is_none():
    with pytest.raises(ScimError):
        holds(parse_filter('meta.created gt "yesterday"'), USERS, ADA)


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_refused(text):
    try:
        found = parse_filter(text)
    except ScimError:
        return
    with suppress(ScimError):  # no path, or no time
        assert holds(found, USERS, ADA) in (True, False)


@given(st.text(alphabet='userName.[]"eq and() or pr0:', max_size=60))
def test_pieces_of_filters_are_filters_or_refused(text):
    test_any_text_is_a_filter_or_refused.hypothesis.inner_test(text)


def test_what_is_found_by_an_index():
    assert compared(parse_filter('userName eq "a"'), "username") == "a"
    assert compared(parse_filter('userName co "a"'), "userName") is None
    assert compared(parse_filter('userName eq "a" or active eq true'), "userName") is None
    assert compared(parse_filter('externalId eq "a"'), "userName") is None


def test_what_is_asked_for():
    text = 'urn:ietf:params:scim:schemas:core:2.0:Group:displayName eq "a" or not (members[value eq "b"] and id pr)'
    assert names_in(parse_filter(text)) == {"displayname", "members", "id"}
    assert holds(parse_filter('members.value eq "b"'), GROUPS, {"members": [{"value": "a"}, {"value": "b"}]})
    assert holds(parse_filter('members[value eq "b"]'), GROUPS, {"members": [{"value": "a"}, {"value": "b"}]})


@pytest.mark.parametrize(
    ("text", "name", "part"),
    [
        ("userName", "userName", None),
        ("name.givenName", "name", "givenName"),
        ('emails[type eq "work"].value', "emails", "value"),
        ('members[value eq "a"]', "members", None),
    ],
)
def test_a_path(text, name, part):
    found = parse_path(text)
    assert (found.name, found.part, found.only is not None) == (name, part, "[" in text)


@pytest.mark.parametrize(
    "text", ["", " ", "a b", "a[", 'a[b eq "c"', 'a[b eq "c"]d', "a.b.c", "a..b", 'a[b eq "c"].d.e']
)
def test_what_is_no_path(text):
    with pytest.raises(ScimError):
        parse_path(text)


def test_how_many_comparisons_there_are():
    assert comparisons(parse_filter("active pr")) == 1
    assert comparisons(parse_filter('not (id eq "a" or emails[type eq "b" and value pr]) and active eq true')) == 4
