"""What the programs of this folder share: a line of JSON says what to ask, a line says what came of it.

Waiting is noted and not done, and chance is the middle of what it could be, so that each run sees the same. Nothing
here is imported by the tests: it runs where the libraries are installed.
"""

import json
import random
import ssl
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

# `base_url`, `api_key`, `model`, `prompt`, `api` (which of the APIs that a library speaks), and `what` to do.
Asked = dict[str, Any]
# A picture of one pixel, a PNG in base64.
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE_URL = f"data:image/png;base64,{IMAGE}"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "Tells the weather of a city.", "parameters": CITY}
OPENAI_TOOL = {"type": "function", "function": WEATHER}
MAX_TOKENS = 50

random.random = lambda: 0.5  # before the libraries are imported, as some keep it by name
random.uniform = lambda low, high: (low + high) / 2
# Each client would read all the world's certificates, which takes longer than its request; nothing is encrypted.
ssl.create_default_context = cache(ssl.create_default_context)


def openai_messages(asked: Asked) -> list[dict[str, Any]]:
    """The prompt as a chat's message, with the picture where one is to be shown."""
    shown = [{"type": "text", "text": asked["prompt"]}, {"type": "image_url", "image_url": {"url": IMAGE_URL}}]
    return [{"role": "user", "content": shown if asked["what"] == "image" else asked["prompt"]}]


def called(name: str, arguments: object) -> str:
    """A call of a tool as text; its arguments as an object or as JSON."""
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    return f"{name} {json.dumps(given, sort_keys=True)}"


def drive(ask: Callable[[Asked], str]) -> None:
    """Answer each line of stdin: the text that `ask` gave or what it raised, and how long it meant to wait."""
    told, sys.stdout = sys.stdout, sys.stderr
    waits: list[float] = []
    sleep = time.sleep

    def noted(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            waits.append(seconds)
        else:
            sleep(seconds)

    time.sleep = noted
    for line in sys.stdin:
        waits.clear()
        outcome: dict[str, Any]
        try:
            outcome = {"text": ask(json.loads(line))}
        except Exception as error:
            names = [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__]
            base = next((name for name in names if name.startswith("openai.")), names[0])
            outcome = {"raised": names[0], "base": base, "message": str(error)}
        print(json.dumps({"waits": waits, **outcome}), file=told, flush=True)
