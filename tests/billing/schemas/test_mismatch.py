"""What is wrong with a value is said in words: nothing of the validator's own text, of no shape that the API takes."""

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from billing.api.operations import OPERATIONS
from billing.schemas.decoding import mismatch, unreadable

VALUES = (
    0,
    -1,
    1.5,
    10**30,
    True,
    None,
    "",
    "é",
    "x" * 5000,
    [],
    [1],
    ["x" * 5000],
    [[1]],
    [{}],
    [{"window": 1}],
    [{"window": "day", "metric": "tokens", "limit": []}],
    {},
    {"a": 1},
    {"a": [1]},
    {"a": "x" * 5000},
    {"": "x"},
    {"x" * 500: "y"},
)
BODIES = (b"[]", b"1", b'"x"', b"null", b"{}", b'{"zzz": 1}')
OF_THE_VALIDATOR = ("Expected ", "Object ", "got `", "regex", "$.", "- at", "enum", "`str`", "`int`", "`object`")


def shapes() -> list[type[msgspec.Struct]]:
    """Every body and query that an endpoint takes."""
    found = {
        value: None
        for operation in OPERATIONS
        for name in ("body", "query", "answer", "refusal")
        if isinstance(value := getattr(operation, name), type) and issubclass(value, msgspec.Struct)
    }
    return list(found)


def test_nothing_of_the_validator_s_text_reaches_a_person():
    seen = 0
    for shape in shapes():
        fields = [field.encode_name for field in msgspec.structs.fields(shape)]
        bodies = [*BODIES, *(msgspec.json.encode({name: value}) for name in fields for value in VALUES)]
        for body in bodies:
            try:
                msgspec.json.decode(body, type=shape)
            except msgspec.ValidationError as error:
                message, field = mismatch(error, shape)
                seen += 1
                assert not any(part in message for part in OF_THE_VALIDATOR), (shape, body, message)
                assert message.endswith("."), message
                assert field is None or field in message, (shape, body, message)
    assert seen > 10_000


class Part(msgspec.Struct, forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=1)]


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    x: Annotated[int, Meta(description="how many there are")]
    name: Annotated[str, Meta(max_length=3, pattern=r"\S")] = "a"
    code: Annotated[str, Meta(pattern="^[a-z]+$")] = "a"
    parts: Annotated[list[Part], Meta(max_length=1)] = []
    tags: dict[Annotated[str, Meta(max_length=2)], Annotated[str, Meta(max_length=2)]] = {}

    def __post_init__(self) -> None:
        if self.x == 13:
            raise ValueError("x is never 13")


@pytest.mark.parametrize(
    ("body", "message", "field"),
    [
        ('{"x": "1"}', "x must be a whole number, not a text: how many there are.", "x"),
        ("{}", "x is missing: expected how many there are.", "x"),
        ("[]", "The body must be an object, not a list.", None),
        ('{"x": 1, "y": 2}', "y is no field of this body.", "y"),
        ('{"x": 1, "name": "long"}', "name must have at most 3 characters.", "name"),
        ('{"x": 1, "name": " "}', "name must not be blank.", "name"),
        ('{"x": 1, "code": "1"}', "code is not of the right form.", "code"),
        ('{"x": 1, "parts": [{"size": 0}]}', "parts[0].size must be at least 1.", "parts"),
        ('{"x": 1, "parts": [{"size": 1}, {"size": 1}]}', "parts must have at most 1 item.", "parts"),
        ('{"x": 1, "parts": [{}]}', "size is missing in parts[0].", "size"),
        ('{"x": 1, "tags": {"a": "long"}}', "A value of tags must have at most 2 characters.", "tags"),
        ('{"x": 1, "tags": {"long": "a"}}', "A name in tags must have at most 2 characters.", "tags"),
        ('{"x": 13}', "x is never 13.", None),
    ],
)
def test_what_is_wrong_is_said_with_the_field_s_name(body, message, field):
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.json.decode(body, type=Whole)
    assert mismatch(raised.value, Whole) == (message, field)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"x":', "The body is not valid JSON: it ends too soon."),
        (b'{"x": y}', "The body is not valid JSON: check its byte 6."),
        (b'{"name": "\xff"}', "The body is not valid JSON: it is not UTF-8."),
        (b'{"x": ' + b"[" * 5000, "The body is not valid JSON: it is nested too deeply."),
    ],
)
def test_a_body_that_is_no_json_is_said_to_be_none(body, message):
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError, RecursionError)) as raised:
        msgspec.json.decode(body, type=dict[str, Any])
    assert unreadable(raised.value) == message
