"""Where patches lie, what is cut, and the reader thread."""

import threading

import numpy as np
import pytest

from segkit.training.patches import (
    ANNOTATED,
    PatchLoader,
    PatchSettings,
    choose_centre,
    cut,
    forced_foreground,
    patch_bounds,
    read_ahead,
)


class Cases:
    """Cases in memory; voxel values tell where they come from."""

    def __init__(self, shape=(6, 8, 10), locations=None):
        self.array = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
        self.places = locations or {}

    def image(self, case_id):
        return self.array

    def seg(self, case_id):
        return (self.array % 3).astype(np.int16)

    def locations(self, case_id):
        return self.places


def settings(**changes):
    values = {
        "sampled_size": (4, 4, 4),
        "final_size": (4, 4, 4),
        "batch_size": 3,
        "foreground_share": 0.33,
        "seed": (0, 0, 0),
    }
    return PatchSettings(**{**values, **changes})


@pytest.mark.parametrize(
    ("batch_size", "forced"),
    list(enumerate([0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4], start=1)),
)
def test_forced_share_equals_nnunet(batch_size, forced):
    assert forced_foreground(batch_size, 0.33) == forced


def test_bounds_of_a_patch_that_fits():
    lower, upper = patch_bounds((10, 20), (4, 4), (4, 4))
    assert lower.tolist() == [0, 0]
    assert upper.tolist() == [6, 16]


def test_bounds_let_a_larger_sampled_patch_overhang_by_half_its_surplus():
    lower, upper = patch_bounds((10,), (7,), (4,))
    assert (lower.tolist(), upper.tolist()) == ([-2], [5])


def test_bounds_of_a_case_smaller_than_the_patch():
    lower, upper = patch_bounds((3,), (8,), (8,))
    assert (lower.tolist(), upper.tolist()) == ([-3], [-2])


def test_cut_equals_padding_then_slicing():
    rng = np.random.default_rng(0)
    array = rng.normal(size=(2, 4, 5, 3))
    padded = np.pad(array, [(0, 0), (9, 9), (9, 9), (9, 9)], constant_values=-7)
    for _ in range(200):
        lower = rng.integers(-9, 5, size=3)
        size = rng.integers(1, 5, size=3)
        index = tuple(slice(a + 9, a + 9 + n) for a, n in zip(lower, size, strict=True))
        assert (cut(array, lower, size, -7) == padded[(slice(None), *index)]).all()


def test_foreground_centre_picks_classes_with_equal_chance():
    rng = np.random.default_rng(0)
    places = {1: np.zeros((1000, 3), int), 2: np.ones((1, 3), int), 3: np.empty((0, 3), int)}
    picked = [choose_centre(rng, places, foreground=True)[0] for _ in range(2000)]
    assert np.mean(picked) == pytest.approx(0.5, abs=0.05)


def test_centre_is_annotated_where_only_a_part_is():
    rng = np.random.default_rng(0)
    places = {ANNOTATED: np.array([[1, 2, 3]])}
    assert choose_centre(rng, places, foreground=False).tolist() == [1, 2, 3]
    assert choose_centre(rng, places, foreground=True).tolist() == [1, 2, 3]
    assert choose_centre(rng, {}, foreground=True) is None


def test_forced_samples_hold_their_voxel():
    voxel = np.array([[5, 0, 9]])
    loader = PatchLoader(Cases(locations={1: voxel}), ["a"], settings(foreground_share=1.0))
    value = loader.source.array[0, 5, 0, 9]
    for _ in range(20):
        batch = loader.generate_train_batch()
        assert all((image == value).any() for image in batch["image"])


def test_batches_follow_from_their_number():
    first = PatchLoader(Cases(), ["a", "b"], settings())
    batches = [next(first) for _ in range(5)]
    again = PatchLoader(Cases(), ["a", "b"], settings())
    again.iteration = 3
    third = next(again)
    assert (third["image"] == batches[3]["image"]).all()
    assert third["cases"] == batches[3]["cases"]
    assert (batches[2]["image"] != batches[3]["image"]).any()


def test_what_lies_outside_is_zero_and_invalid():
    loader = PatchLoader(Cases((2, 2, 2)), ["a"], settings())
    batch = next(loader)
    assert batch["image"].shape == batch["seg"].shape == (3, 1, 4, 4, 4)
    assert (batch["seg"] == -1).sum() == 3 * (64 - 8)
    assert (batch["image"][batch["seg"] == -1] == 0).all()


def test_2d_patches_are_slices():
    loader = PatchLoader(Cases(), ["a"], settings(sampled_size=(4, 4), final_size=(4, 4)))
    batch = next(loader)
    assert batch["image"].shape == (3, 1, 4, 4)
    slices = batch["image"] // 80
    assert all(len(np.unique(one)) == 1 for one in slices)


def test_read_ahead_yields_in_order():
    numbers = iter(range(100))
    assert list(read_ahead(lambda: next(numbers), 10)) == list(range(10))


def test_read_ahead_passes_errors_on():
    def fail():
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(read_ahead(fail, 3))


def test_read_ahead_stops_its_thread_when_left_early():
    for _ in read_ahead(lambda: 1, 1000):
        break
    assert threading.active_count() == 1
