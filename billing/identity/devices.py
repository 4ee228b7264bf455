"""What a browser or a program is called, by what it says of itself in `User-Agent`. Pure."""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = "unknown device"
# Names that others carry, too, come last: Edge and Opera say that they are Chrome, Chrome that it is Safari.
_PROGRAMS: Final = (
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("metergate/", "metergate, the command"),
    ("curl/", "curl"),
    ("python-requests/", "a Python program"),
    ("aiohttp/", "a Python program"),
)
_SYSTEMS: Final = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Macintosh", "macOS"),
    ("Linux", "Linux"),
)


def device_of(user_agent: str | None) -> str:
    """Return what a person calls the device of a `User-Agent`, such as `Firefox on Linux`."""
    told = user_agent or ""
    program = next((name for mark, name in _PROGRAMS if mark in told), None)
    system = next((name for mark, name in _SYSTEMS if mark in told), None)
    if program is None:
        return system or told.partition("/")[0].strip()[:40] or UNKNOWN
    return program if system is None else f"{program} on {system}"
