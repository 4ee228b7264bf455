"""Bars as numbers."""

from billing.web.charts import FLOOR, HEAD, MOST_SERIES, MOST_WIDE, OTHER, WIDTH, Bucket, stacked


def test_bars_are_as_high_as_their_amounts_and_colours_are_few():
    names = [(f"m{number}", f"Model {number}") for number in range(MOST_SERIES + 4)]
    buckets = [
        Bucket({key: 10**9 for key, _ in names}, "a", "1 April", "a"),
        Bucket({"m0": 3 * 10**9, OTHER: 3 * 10**9}, "b", "2 April", "b", mark="plan pro", more="3 requests"),
        Bucket({}, "c", "c", "c"),
    ]
    chart = stacked(buckets, names)
    whole, half, none = chart.bars
    assert [each.key for each in chart.series] == [*(key for key, _ in names[: MOST_SERIES - 1]), OTHER]
    assert sum(part.height for part in half.parts) == sum(part.height for part in whole.parts) // 2
    assert (none.parts, whole.parts[0].y + whole.parts[0].height) == ((), FLOOR)
    assert [bar.mark for bar in chart.bars] == ["", "plan pro", ""]
    assert chart.bars[-1].x + chart.bars[-1].width == WIDTH
    assert int(chart.lines[-1].label.replace(",", "")) >= 12 * 10**9
    assert (chart.lines[0].at, chart.lines[0].label, chart.lines[-1].at) == (FLOOR, "0", HEAD)
    assert half.said == ((MOST_SERIES - 1, OTHER, "3,000,000,000"), (0, "Model 0", "3,000,000,000"))
    assert half.title == "2 April: 6,000,000,000, 3 requests"
    assert half.label == f"{half.title}. {OTHER} 3,000,000,000; Model 0 3,000,000,000. plan pro"
    assert stacked([], []).bars == ()


def test_a_series_that_is_hidden_leaves_its_room_to_the_others():
    buckets = [Bucket({"a": 30, "b": 10}, "", "1", "1"), Bucket({"b": 5}, "", "2", "2")]
    chart = stacked(buckets, [("a", "A"), ("b", "B")], hidden={"a"})
    assert [each.hidden for each in chart.series] == [True, False]
    first, second = chart.bars
    assert [part.series for part in first.parts] == [1]
    assert first.parts[0].height == FLOOR - HEAD == 2 * second.parts[0].height
    assert first.title == "1: 10"


def test_few_bars_stay_narrow_and_each_other_time_is_for_wide_pages():
    one = stacked([Bucket({"a": 1}, "", "now", "now")], [("a", "A")]).bars[0]
    assert (one.shown, one.left + one.shown // 2) == (MOST_WIDE, WIDTH // 2)
    month = stacked([Bucket({"a": 1}, "", str(day), str(day)) for day in range(31)], [("a", "A")])
    assert [(bar.tick, bar.often) for bar in month.bars if bar.tick][:3] == [("0", False), ("4", True), ("8", False)]
