"""What is told of an epoch."""

import logging

import pytest

from segkit.training.hooks import describe_dice, reporter
from segkit.training.state import EpochRecord, TrainingState


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, logger="segkit")
    return lambda: [record.getMessage() for record in caplog.records]


def test_every_target_is_named_where_they_are_few():
    assert describe_dice({"a": 0.51239, "b": None}) == "a 0.512, b n/a (absent)"


def test_of_many_targets_the_lowest_are_named():
    dice = {f"c{i}": i / 10 for i in range(10)}
    expected = "mean 0.450 of 10 targets, lowest: c0 0.000, c1 0.100, c2 0.200"
    assert describe_dice(dice) == expected
    absent = {**dice, "x": None, "y": None}
    assert describe_dice(absent) == f"{expected}; 2 n/a (absent)"
    assert describe_dice(dict.fromkeys(dice)) == "10 n/a (absent)"


@pytest.mark.parametrize(
    ("loss", "dice", "expected"),
    [
        (0.5, {"a": 0.25}, "val 0.5000  dice a 0.250"),
        (None, {"a": 0.25}, "val n/a  dice a 0.250"),
        (0.5, {"a": None}, "val 0.5000  dice a n/a (absent)"),
        (None, {"a": None}, "val n/a  dice n/a "),
    ],
)
def test_the_dice_is_told_even_where_the_loss_is_no_number(loss, dice, expected, messages):
    record = EpochRecord(
        epoch=1,
        iterations=1,
        learning_rate=0.1,
        train_loss=1.0,
        validation_loss=loss,
        dice=dice,
        mean_dice=dice["a"],
        ema_dice=None,
        seconds=1.0,
        data_wait_share=0.0,
        eta_seconds=None,
    )
    reporter(None)(TrainingState(), record)
    assert expected in messages()[-1]
