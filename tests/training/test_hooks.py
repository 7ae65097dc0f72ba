"""What is told of an epoch."""

from segkit.training.hooks import describe_dice


def test_every_target_is_named_where_they_are_few():
    assert describe_dice({"a": 0.51239, "b": None}) == "a 0.512, b n/a (absent)"


def test_of_many_targets_the_lowest_are_named():
    dice = {f"c{i}": i / 10 for i in range(10)}
    expected = "mean 0.450 of 10 targets, lowest: c0 0.000, c1 0.100, c2 0.200"
    assert describe_dice(dice) == expected
    absent = {**dice, "x": None, "y": None}
    assert describe_dice(absent) == f"{expected}; 2 n/a (absent)"
    assert describe_dice(dict.fromkeys(dice)) == "10 n/a (absent)"
