"""What a device is called by its User-Agent."""

import pytest

from billing.identity.devices import UNKNOWN, device_of

MOZILLA = "Mozilla/5.0"
WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("told", "called"),
    [
        (f"{MOZILLA} (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        (f"{MOZILLA} (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        (f"{MOZILLA} (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/140.0 Safari/537.36", "Chrome on Windows"),
        (f"{MOZILLA} (Linux; Android 16; Pixel 9) {WEBKIT} Chrome/140.0 Safari/537.36", "Chrome on Android"),
        (
            f"{MOZILLA} (iPhone; CPU iPhone OS 19_0) {WEBKIT} Version/19.0 Safari/604.1",
            "Safari on iPhone",
        ),
        (f"{MOZILLA} (Macintosh; Intel Mac OS X 10_15_7) {WEBKIT} Version/19.0 Safari/605.1.15", "Safari on macOS"),
        ("curl/8.14.1", "curl"),
        ("metergate/0.1.0", "metergate, the command"),
        ("Something/1.0", "Something"),
        ("", UNKNOWN),
        (None, UNKNOWN),
        ("/1", UNKNOWN),
    ],
)
def test_a_device_is_called_by_its_program_and_system(told, called):
    assert device_of(told) == called


def test_a_long_name_is_cut():
    assert device_of("x" * 500) == "x" * 40
