"""Bars as numbers."""

from billing.web.lists import FLOOR, MOST_SERIES, OTHER, Bucket, stacked


def test_bars_are_as_high_as_their_amounts_and_colours_are_few():
    names = [f"m{number}" for number in range(MOST_SERIES + 4)]
    buckets = [
        Bucket(dict.fromkeys(names, 10**9), "a", "a", "a"),
        Bucket({"m0": 3 * 10**9, "unnamed": 3 * 10**9}, "b", "b", "b", mark="April"),
        Bucket({}, "c", "c", "c"),
    ]
    chart = stacked(buckets, names)
    whole, half, none = chart.bars
    assert chart.series == (*names[: MOST_SERIES - 1], OTHER)
    assert sum(part.height for part in half.parts) == sum(part.height for part in whole.parts) // 2
    assert (none.parts, whole.parts[0].y + whole.parts[0].height) == ((), FLOOR)
    assert [line.at for line in chart.marks] == [half.x]
    assert chart.bars[-1].x + chart.bars[-1].width == chart.width
    assert [int(line.label) for line in chart.lines][-1] >= 12 * 10**9
    assert stacked([], []).bars == ()
