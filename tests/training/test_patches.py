"""Where patches lie, what is cut, and the reader thread."""

import threading

import numpy as np
import pytest

from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.preprocessing.locations import find_locations
from segkit.training.patches import PatchLoader, PatchSettings, cut, patch_bounds, read_ahead


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


class Labelled:
    """Cases of given segmentations; the image is the sum over the channels."""

    def __init__(self, schema, **segs):
        self.schema = schema
        self.segs = segs

    def image(self, case_id):
        return self.segs[case_id].sum(0, keepdims=True).astype(np.float32)

    def seg(self, case_id):
        return self.segs[case_id]

    def locations(self, case_id):
        return find_locations(self.segs[case_id], self.schema)


def schema_of(count, **changes):
    classes = tuple(LabelClass(name=f"c{i}", value=i) for i in range(1, count + 1))
    return LabelSchema(classes=classes, **changes)


def settings(**changes):
    values = {
        "sampled_size": (4, 4, 4),
        "final_size": (4, 4, 4),
        "batch_size": 3,
        "foreground_share": 0.33,
        "seed": (0, 0, 0),
    }
    return PatchSettings(**{**values, **changes})


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


@pytest.mark.parametrize("size", [(4, 4, 4), (4, 4)])
def test_a_channel_a_structure_is_cut_like_one(size):
    seg = np.random.default_rng(0).integers(0, 2, size=(3, 6, 8, 10)).astype(np.int16)
    seg[2] = 0
    source = Labelled(schema_of(3, overlapping=True), a=seg)
    changes = {"sampled_size": size, "final_size": size, "foreground_share": 1.0}
    batch = next(PatchLoader(source, ["a"], settings(**changes)))
    assert batch["seg"].shape == (3, 3, *size)
    assert (batch["seg"].sum(1, keepdims=True) == batch["image"]).all()


def voxels_drawn(source, cases, batches=60, **changes):
    """Patches of one voxel: what they show is what they are centred on."""
    one = {"sampled_size": (1, 1, 1), "final_size": (1, 1, 1), "batch_size": 6}
    loader = PatchLoader(source, cases, settings(**one, **changes))
    drawn = [loader.generate_train_batch() for _ in range(batches)]
    names = [name for batch in drawn for name in batch["cases"]]
    values = np.concatenate([batch["seg"] for batch in drawn])[..., 0, 0, 0]
    return list(zip(names, values.tolist(), strict=True))


def test_partly_annotated_cases_are_centred_where_they_are_annotated():
    rng = np.random.default_rng(0)
    partly = rng.integers(0, 3, size=(1, 6, 8, 10)).astype(np.int16)
    partly[rng.random(partly.shape) < 0.7] = 3
    whole = rng.integers(-1, 3, size=(1, 6, 8, 10)).astype(np.int16)
    source = Labelled(schema_of(2), partly=partly, whole=whole)
    drawn = voxels_drawn(source, ["partly", "whole"])
    assert {value for name, (value,) in drawn if name == "partly"} == {0, 1, 2}
    assert {value for name, (value,) in drawn if name == "whole"} == {-1, 0, 1, 2}


def test_structures_are_never_centred_where_nobody_annotated_them():
    rng = np.random.default_rng(0)
    seg = rng.integers(0, 2, size=(2, 6, 8, 10)).astype(np.int16)
    seg[0, :3], seg[:, 5] = 2, 2
    source = Labelled(schema_of(2, overlapping=True), a=seg)
    drawn = [tuple(value) for _, value in voxels_drawn(source, ["a"])]
    assert (2, 2) not in drawn
    assert {(2, 0), (2, 1), (0, 0), (1, 1)} <= set(drawn)
    forced = [tuple(value) for _, value in voxels_drawn(source, ["a"], foreground_share=1.0)]
    assert all(1 in value for value in forced)


def test_weights_of_classes_and_cases():
    seg = np.zeros((1, 6, 8, 10), np.int16)
    seg[0, 0], seg[0, 1, 0, 0] = 1, 2
    source = Labelled(schema_of(2), a=seg, b=seg, c=seg)
    drawn = voxels_drawn(
        source,
        ["a", "b", "c"],
        batches=400,
        foreground_share=1.0,
        class_weights={1: 1.0, 2: 3.0},
        case_weights=(3.0, 1.0, 0.0),
    )
    names, values = zip(*drawn, strict=True)
    assert np.mean([name == "a" for name in names]) == pytest.approx(0.75, abs=0.03)
    assert "c" not in names
    assert np.mean([value == [2] for value in values]) == pytest.approx(0.75, abs=0.03)


def test_random_numbers_without_weights_are_those_of_earlier_versions():
    """A run that was begun with an earlier version goes on with the same batches."""
    seg = np.zeros((1, 6, 8, 10), np.int16)
    seg[0, 4, 4, 4:6], seg[0, 1, 0, 0] = 1, 2
    source = Labelled(schema_of(2), a=seg, b=seg)
    places = find_locations(seg, source.schema)
    loader = PatchLoader(source, ["a", "b"], settings(foreground_share=1.0))
    for number in range(5):
        batch = loader.generate_train_batch()
        rng = np.random.default_rng([0, 0, 0, number])
        assert batch["cases"] == [loader.cases[i] for i in rng.integers(2, size=3)]
        for patch in batch["seg"]:
            voxels = places[[1, 2][rng.integers(2)]]
            centre = voxels[rng.integers(len(voxels))]
            lower = np.clip(centre - 2, 0, np.array([6, 8, 10]) - 4)
            assert (patch == cut(seg, lower, (4, 4, 4), -1)).all()


def thirty_targets(overlapping):
    """Three cases with ten targets of one voxel each."""
    segs = {}
    for number, name in enumerate("abc"):
        seg = np.zeros((30 if overlapping else 1, 6, 8, 10), np.int16)
        for i in range(10 * number, 10 * number + 10):
            place = (i % 6, i % 8, i % 10)
            seg[(i, *place) if overlapping else (0, *place)] = 1 if overlapping else i + 1
        segs[name] = seg
    return Labelled(schema_of(30, overlapping=overlapping), **segs)


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize(("asked", "drawn"), [(40, 40), (15, 15), (4, 10)])
def test_every_target_is_seen_in_every_epoch(overlapping, asked, drawn):
    source = thirty_targets(overlapping)
    loader = PatchLoader(source, list("abc"), settings(epoch_batches=asked))
    assert len(loader.rounds.batches) == drawn
    for _ in range(3):
        segs = np.concatenate([loader.generate_train_batch()["seg"] for _ in range(drawn)])
        if overlapping:
            assert (segs == 1).any(axis=(0, 2, 3, 4)).all()
        else:
            assert set(np.unique(segs)) == set(range(31))


def test_an_epoch_of_rounds_follows_from_its_number():
    def loader():
        return PatchLoader(thirty_targets(False), list("abc"), settings(epoch_batches=20))

    first, again = loader(), loader()
    batches = [first.generate_train_batch() for _ in range(40)]
    again.iteration = 17
    for batch in batches[17:]:
        other = again.generate_train_batch()
        assert batch["cases"] == other["cases"]
        assert (batch["image"] == other["image"]).all()
    epochs = [[batch["cases"] for batch in half] for half in (batches[:20], batches[20:])]
    assert epochs[0] != epochs[1]


def test_rounds_over_cases_without_foreground():
    empty = np.zeros((1, 6, 8, 10), np.int16)
    loader = PatchLoader(Labelled(schema_of(2), a=empty), ["a"], settings(epoch_batches=2))
    assert loader.rounds.batches == ((), ())
    assert (loader.generate_train_batch()["seg"] == 0).all()


@pytest.mark.parametrize("flat", [False, True])
def test_a_previous_stage_is_cut_where_the_labels_are(flat):
    source = Cases()
    size = (9, 11) if flat else (7, 9, 11)
    sizes = {"sampled_size": size, "final_size": size}
    alone = PatchLoader(source, ["a"], settings(**sizes)).generate_train_batch()
    loader = PatchLoader(source, ["a"], settings(**sizes), lambda case: source.seg(case) + 10)
    both = loader.generate_train_batch()
    np.testing.assert_array_equal(both["image"], alone["image"])
    np.testing.assert_array_equal(both["seg"][:, :1], alone["seg"])
    outside = alone["seg"] == -1
    assert outside.any()
    np.testing.assert_array_equal(both["seg"][:, 1:], np.where(outside, -1, alone["seg"] + 10))


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


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_probabilistic_foreground_is_by_chance_in_every_place_of_the_batch(share):
    voxel = np.array([[3, 4, 5]])
    given = settings(
        foreground_share=share,
        probabilistic=True,
        batch_size=4,
        sampled_size=(1, 1, 1),
        final_size=(1, 1, 1),
    )
    loader = PatchLoader(Cases(locations={1: voxel}), ["a"], given)
    wanted = Cases().array[0, 3, 4, 5]
    drawn = np.stack([loader.generate_train_batch()["image"].ravel() for _ in range(200)])
    assert (drawn == wanted).mean(0) == pytest.approx(np.full(4, share), abs=0.1)
