"""What amounts look like."""

import pytest

from billing.web.render import usd_text


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (-1_500, "$-0.000002"),
        (12_345_678_901, "$12.35"),
        (999_999_999, "$1.00"),
        (450_000, "$0.000450"),
        (500_000_000, "$0.50"),
        (1_234_567_000_000_000, "$1,234,567.00"),
    ],
)
def test_an_amount_is_rounded_for_reading_and_never_to_nothing(nano: int, text: str) -> None:
    assert usd_text(nano) == (text if nano >= 0 else text.replace("$-", "-$"))
