"""The classes that usage is priced in, and the conditions that prices differ by. Pure.

A class without a price of its own takes its parent's.
"""

import re
from collections.abc import Mapping
from typing import Final

# A class without a price of its own takes its parent's.
PARENT: Final = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "image_input": "input",
    "video_input": "image_input",
    "cached_audio_input": "audio_input",
    "cached_image_input": "image_input",
    "reasoning": "output",
    "audio_output": "output",
    "image_output": "output",
    "video_output": "output",
}
INPUT_CLASSES: Final = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "audio_input",
    "image_input",
    "video_input",
    "cached_audio_input",
    "cached_image_input",
)
OUTPUT_CLASSES: Final = ("output", "reasoning", "audio_output", "image_output", "video_output")
TOKEN_CLASSES: Final = INPUT_CLASSES + OUTPUT_CLASSES
# `hour` is a price of the class `second` where a provider names it by the hour, `million` one of the class `unit` where
# one of them costs less than a nano-USD; a row has one of the two.
UNIT_CLASSES: Final = ("request", "image", "second", "hour", "character", "search", "page", "unit", "million")
# Units with names of their own, as in `billing.usage`: `call.file_search`, `image.1024x1024.high`.
NAMED_UNITS: Final = re.compile(r"(?:call|image)(?:\.[a-z0-9_:-]{1,40}){1,3}", re.ASCII)
MULTIPLIERS: Final = ("batch", "flex", "priority")
# Service tiers at the standard price.
STANDARD_TIERS: Final = frozenset({"default", "standard", "auto", "on_demand", "scale", "standard_only"})
STANDARD_SPEEDS: Final = frozenset({"standard", "default"})
STANDARD_REGIONS: Final = frozenset({"global", "default", "not_available"})
# Other names of service tiers (OpenAI's `fast` is answered as `priority`; Google's `trafficType`).
TIER_NAMES: Final = {"fast": "priority", "on_demand_priority": "priority", "on_demand_flex": "flex"}
# Conditions that a request asks for; a hold counts on them only where it does.
ASKED_FOR: Final = frozenset({"service_tier", "processing", "speed"})
CONDITIONS: Final = ("service_tier", "processing", "speed", "region", "utc_hours")


def class_rate(rates: Mapping[str, int], price_class: str) -> int:
    """Return the rate of a class or of its nearest ancestor that has one; zero where none has."""
    name: str | None = price_class
    while name is not None:
        if name in rates:
            return rates[name]
        name = PARENT.get(name)
    return 0
