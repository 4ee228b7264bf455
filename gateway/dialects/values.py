"""Single values of a request's JSON: strings, numbers, a model's name. Each is read from its bytes, or refused."""

from typing import Final

import msgspec
from msgspec import Raw

from gateway.dialects.exceptions import BadRequest
from gateway.dialects.fields import wrong_type

MAX_MODEL_CHARS: Final = 200
MAX_NAME_CHARS: Final = 200
"""Names of tools, plugins and other models are read up to here."""
MAX_LABEL_CHARS: Final = 256
"""An end user's name and a service tier are kept up to here."""
PRESET: Final = "@preset/"
"""OpenRouter's way to name a model by what is stored there."""
_STRING: Final = msgspec.json.Decoder(str)
_STRINGS: Final = msgspec.json.Decoder(list[str])
_INTEGER: Final = msgspec.json.Decoder(int)
_NULL: Final = Raw(b"null")


def text(raw: Raw, param: str) -> str:
    """Return a string. Raises `BadRequest`."""
    try:
        return _STRING.decode(raw)
    except msgspec.DecodeError as error:
        raise wrong_type(param, "a string") from error


def short_text(raw: Raw | None, param: str) -> str:
    """Return the beginning of a string that is compared with known ones. Raises `BadRequest`, also where it is not
    given."""
    return text(_NULL if raw is None else raw, param)[:MAX_NAME_CHARS]


def texts(raw: Raw, param: str) -> list[str]:
    """Return a list of strings. Raises `BadRequest`."""
    try:
        return _STRINGS.decode(raw)
    except msgspec.DecodeError as error:
        raise wrong_type(param, "an array of strings") from error


def whole(raw: Raw, param: str, least: int, most: int) -> int:
    """Return an integer within bounds. Raises `BadRequest`."""
    try:
        number = _INTEGER.decode(raw)
    except msgspec.DecodeError as error:
        raise wrong_type(param, "an integer") from error
    if not least <= number <= most:
        raise BadRequest(f"Invalid value for '{param}': expected an integer from {least} to {most}.", param)
    return number


def label(text: str) -> str:
    """Return a string that is only recorded: bounded, and without NUL, which Postgres can't store."""
    return text[:MAX_LABEL_CHARS].replace("\0", "\ufffd")


def checked_model(model: str | None) -> str:
    """Return a model's name as it is. Raises `BadRequest` where there is none, or one that leads to another one."""
    if model is None:
        raise BadRequest("Missing required parameter: 'model'.", "model")
    if not 1 <= len(model) <= MAX_MODEL_CHARS:
        raise BadRequest(f"Invalid value for 'model': expected 1 to {MAX_MODEL_CHARS} characters.", "model")
    if PRESET in model:
        raise BadRequest("A preset names its model at the provider: name the model itself.", "model")
    return model
