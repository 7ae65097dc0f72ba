"""Which case, which voxel, and the rounds an epoch of validation makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.errors import UserError
from segkit.preprocessing.locations import ANNOTATED
from segkit.training.sampling import (
    cases_by_target,
    choose_centre,
    draw,
    forced_foreground,
    plan_batches,
    weights_in_order,
)

NOTHING = np.empty((0, 3), int)


def at(value, count=1):
    return np.full((count, 3), value)


@pytest.mark.parametrize(
    ("batch_size", "forced"),
    list(enumerate([0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4], start=1)),
)
def test_forced_share_equals_nnunet(batch_size, forced):
    assert forced_foreground(batch_size, 0.33) == forced


def test_foreground_centre_picks_classes_with_equal_chance():
    rng = np.random.default_rng(0)
    places = {1: at(0, 1000), 2: at(1), 3: NOTHING}
    picked = [choose_centre(rng, places, foreground=True)[0] for _ in range(2000)]
    assert np.mean(picked) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({0: 3.0, 1: 1.0, 2: 5.0}, [0.75, 0.25]),
        ({0: 0.0, 1: 1e-3, 2: 1.0}, [0.0, 1.0]),
        ({0: 1.0, 1: 1.0, 2: 0.0}, [0.5, 0.5]),
    ],
)
def test_weights_are_relative_to_the_targets_present(weights, shares):
    rng = np.random.default_rng(0)
    places = {0: at(0, 7), 1: at(1, 500), 2: NOTHING}
    picked = [choose_centre(rng, places, foreground=True, weights=weights)[0] for _ in range(2000)]
    assert np.bincount(picked, minlength=2) / 2000 == pytest.approx(shares, abs=0.04)


def test_targets_of_weight_zero_leave_the_patch_to_chance():
    rng = np.random.default_rng(0)
    never = {1: 0.0, 2: 1.0}
    assert choose_centre(rng, {1: at(5)}, foreground=True, weights=never) is None
    partly = {1: at(5), ANNOTATED: at(7)}
    assert choose_centre(rng, partly, foreground=True, weights=never)[0] == 7


def test_centre_is_annotated_where_only_a_part_is():
    rng = np.random.default_rng(0)
    places = {ANNOTATED: np.array([[1, 2, 3]])}
    assert choose_centre(rng, places, foreground=False).tolist() == [1, 2, 3]
    assert choose_centre(rng, places, foreground=True).tolist() == [1, 2, 3]
    assert choose_centre(rng, {}, foreground=True) is None


def test_draws_without_weights_use_the_same_random_numbers_as_ever():
    ours, plain = np.random.default_rng(5), np.random.default_rng(5)
    for count in (1, 2, 3, 100):
        assert draw(ours, None, count) == plain.integers(count)
        assert draw(ours, None, count, size=3).tolist() == plain.integers(count, size=3).tolist()


def test_draws_with_weights():
    drawn = draw(np.random.default_rng(0), (1.0, 0.0, 3.0), 3, size=4000)
    assert np.bincount(drawn) / 4000 == pytest.approx([0.25, 0, 0.75], abs=0.03)


def test_targets_are_ordered_by_the_cases_that_have_them():
    found = [
        ("a", {3: at(0), 1: at(0), ANNOTATED: at(0)}),
        ("b", {1: at(0), 2: NOTHING, 3: at(0)}),
        ("c", {1: at(0), 4: at(0)}),
    ]
    cases = cases_by_target(found)
    assert cases == {4: ("c",), 3: ("a", "b"), 1: ("a", "b", "c")}
    assert list(cases) == [4, 3, 1]


@pytest.mark.parametrize(
    ("targets", "batches", "forced", "expected"),
    [
        ("abc", 4, 1, ["a", "b", "c", "a"]),
        ("abc", 2, 2, ["ab", "ca"]),
        ("abcd", 3, 1, ["abc", "dab", "c"]),
        ("abcdefgh", 2, 1, ["abc", "def", "gha"]),
        ("ab", 2, 0, ["aba", ""]),
        ("", 3, 1, ["", "", ""]),
        ("abc", 0, 1, []),
    ],
)
def test_batches_go_round_the_targets(targets, batches, forced, expected):
    planned = plan_batches(targets, batches=batches, batch_size=3, forced=forced)
    assert ["".join(due) for due in planned] == expected


@given(
    targets=st.integers(0, 120),
    batches=st.integers(0, 20),
    batch_size=st.integers(1, 9),
    share=st.floats(0, 1),
)
def test_every_target_is_due_and_no_batch_too_many(targets, batches, batch_size, share):
    forced = forced_foreground(batch_size, share)
    planned = plan_batches(range(targets), batches=batches, batch_size=batch_size, forced=forced)
    seen = {target for due in planned for target in due}
    assert seen == (set(range(targets)) if batches else set())
    assert len(planned) == (max(batches, -(-targets // batch_size)) if batches else 0)
    assert all(len(due) in (0, forced, batch_size) for due in planned)
    if targets and batches * forced >= targets:
        assert {len(due) for due in planned} == {forced}


def test_weights_follow_the_order_of_the_names():
    assert weights_in_order(None, ["a", "b"], key="k") is None
    assert weights_in_order({"b": 3}, ["a", "b", "c"], key="k") == (1, 3, 1)
    assert weights_in_order({}, ["a"], key="k") == (1,)
    assert weights_in_order({"v": 9}, ["a"], key="k", without_effect=["v"]) == (1,)


def test_weights_of_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"no 'tumour'(.|\n)*did you mean 'tumor'") as caught:
        weights_in_order({"tumour": 2}, ["liver", "tumor"], key="sampling.class_weights")
    assert caught.value.where == "sampling.class_weights"


def test_weights_that_leave_nothing_are_refused():
    with pytest.raises(UserError, match="every weight is 0"):
        weights_in_order({"a": 0, "b": 0.0}, ["a", "b"], key="k")
