"""How far a run is, and what it may still spend."""

import math

import pytest

from segkit.training import clock as module
from segkit.training.clock import Clock


@pytest.fixture
def at(monkeypatch):
    """Build a clock of a run that has taken so many seconds."""

    def build(seconds, **settings):
        monkeypatch.setattr(module.time, "monotonic", lambda: seconds)
        given = {"total_iterations": 10, "budget_seconds": None, "started": 0.0, "spent": 0.0}
        return Clock(**{**given, **settings})

    return build


def test_steps_rule_without_a_budget(at):
    clock = at(30.0, spent=10.0)
    assert (clock.seconds(), clock.progress(4)) == (40.0, 0.4)
    assert clock.eta_seconds(4) == pytest.approx(60.0)
    assert clock.eta_seconds(0) is None
    assert clock.seconds_left() is None
    assert clock.validation_seconds(4) == math.inf


def test_time_rules_with_one(at):
    clock = at(30.0, spent=10.0, budget_seconds=100.0)
    assert clock.reserve_seconds == 5.0
    assert clock.progress(10**6) == pytest.approx(40 / 95)
    assert clock.seconds_left() == clock.eta_seconds(0) == 60.0


def test_the_end_of_an_epoch_is_learned_and_kept_over_sessions(at):
    clock = at(0.0, budget_seconds=100.0)
    for seconds in (4.0, 8.0, 2.0):
        clock.learn_reserve(seconds)
    assert (clock.longest_closing, clock.reserve_seconds) == (8.0, 11.0)
    again = at(0.0, budget_seconds=100.0, longest_closing=8.0)
    assert again.reserve_seconds == 11.0


def test_no_validation_takes_what_training_needs(at):
    assert at(20.0, budget_seconds=100.0).validation_seconds(0) == 20.0
    # Training is over: all that is left but for the checkpoints.
    late = at(96.0, budget_seconds=100.0)
    assert late.validation_seconds(0) == pytest.approx(4 - 0.4 * 5)
