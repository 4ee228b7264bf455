"""Requests of coding agents as they were recorded, with their texts written out again: of each its length was kept."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from multidict import CIMultiDict

FOLDER = Path(__file__).parent
_TEXT = re.compile(r"<text of (\d+) characters>")
_SESSION = "91b9bf42-c0f9-4e34-82aa-86f9981e11de"
USER_ID = json.dumps({"device_id": "0f" * 32, "account_uuid": "", "session_id": _SESSION})


class Recorded(NamedTuple):
    """One request."""

    path: str
    headers: CIMultiDict[str]
    body: bytes


def recorded(name: str) -> list[Recorded]:
    """The requests of one agent."""
    found = json.loads((FOLDER / f"{name}.json").read_text())
    return [
        Recorded(each["path"], CIMultiDict(each["headers"]), json.dumps(_written(each["body"])).encode())
        for each in found
    ]


def _written(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {each: _written(under, each) for each, under in value.items()}
    if isinstance(value, list):
        return [_written(each) for each in value if not (isinstance(each, str) and each.endswith("more>"))]
    if value == "<…>":
        return [] if name == "functionDeclarations" else {"type": "ephemeral" if name == "cache_control" else "object"}
    if isinstance(value, str) and (text := _TEXT.fullmatch(value)):
        return USER_ID if name == "user_id" else "word " * (int(text[1]) // 5)
    return value
