import pytest

from benchmarks.figures import Spread, percentile, ratios


def test_a_spread_is_median_and_extremes():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    with pytest.raises(ValueError, match="at least one round"):
        Spread.of([])


@pytest.mark.parametrize(("share", "found"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)])
def test_a_percentile_is_a_value_that_so_many_are_not_above(share, found):
    assert percentile(list(range(100, 0, -1)), share) == found


def test_no_values_have_no_percentile():
    assert percentile([], 0.5) == 0.0


def test_ratios_are_of_the_same_round():
    assert ratios([1.0, 6.0, 5.0], [2.0, 3.0, 0.0]) == [0.5, 2.0]  # a base of nothing gives no ratio
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])
