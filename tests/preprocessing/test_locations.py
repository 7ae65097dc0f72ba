import numpy as np

from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.preprocessing.locations import ANNOTATED, find_locations, target_keys

CLASSES = tuple(LabelClass(name=f"c{i}", value=i) for i in (1, 2, 3))
LABELS = LabelSchema(classes=CLASSES)
REGIONS = LabelSchema(
    classes=CLASSES,
    regions=(
        Region(name="all", members=(1, 2, 3), paint=1),
        Region(name="core", members=(2, 3), paint=2),
        Region(name="three", members=(3,), paint=3),
    ),
)


STRUCTURES = LabelSchema(classes=CLASSES, overlapping=True)


def as_set(voxels):
    return {tuple(v) for v in voxels.tolist()}


def test_few_voxels_are_all_kept():
    seg = np.random.default_rng(0).integers(-1, 3, (1, 5, 6, 7)).astype(np.int16)
    locations = find_locations(seg, LABELS)
    assert list(locations) == [1, 2]
    for k, voxels in locations.items():
        assert voxels.dtype == np.int32
        assert as_set(voxels) == as_set(np.argwhere(seg[0] == k))
        assert len(voxels) == (seg == k).sum()


def test_many_voxels_are_thinned_without_replacement_and_repeatably():
    seg = np.zeros((1, 40, 40, 40), np.int16)
    seg[0, 1:, :, :], seg[0, 0, 0, :3] = 1, 2
    locations = find_locations(seg, LABELS)
    assert len(locations[1]) == len(as_set(locations[1])) == 10_000
    assert as_set(locations[2]) == {(0, 0, 0), (0, 0, 1), (0, 0, 2)}
    assert (seg[0][tuple(locations[1].T)] == 1).all()
    again = find_locations(seg, LABELS)
    np.testing.assert_array_equal(locations[1], again[1])


def test_one_percent_of_a_huge_class():
    seg = np.ones((1, 110, 100, 100), np.int16)
    assert len(find_locations(seg, LABELS)[1]) == 11_000


def test_regions_are_unions_of_their_classes():
    seg = np.zeros((1, 3, 4, 5), np.int16)
    seg[0, 0, 0, 0], seg[0, 2, 3, 4] = 1, 2
    locations = find_locations(seg, REGIONS)
    assert list(locations) == [0, 1]
    assert as_set(locations[0]) == {(0, 0, 0), (2, 3, 4)}
    assert as_set(locations[1]) == {(2, 3, 4)}


def test_annotated_pool_only_with_ignored_voxels():
    seg = np.array([[[[-1, 0, 1, 4]]]], np.int16)
    locations = find_locations(seg, LABELS)
    assert as_set(locations[ANNOTATED]) == {(0, 0, 1), (0, 0, 2)}
    assert 4 not in locations
    everything_ignored = find_locations(np.full((1, 1, 2, 2), 4, np.int16), LABELS)
    assert list(everything_ignored) == [ANNOTATED]
    assert len(everything_ignored[ANNOTATED]) == 0


def test_nothing_there():
    assert find_locations(np.zeros((1, 2, 2, 2), np.int16), LABELS) == {}
    assert find_locations(np.full((1, 2, 2, 2), -1, np.int16), REGIONS) == {}


def test_structures_are_located_each_in_its_channel():
    seg = np.random.default_rng(0).integers(-1, 3, (3, 5, 6, 7)).astype(np.int16)
    seg[1] = np.minimum(seg[1], 0)
    locations = find_locations(seg, STRUCTURES)
    assert list(locations) == [0, 2]
    for s, voxels in locations.items():
        assert as_set(voxels) == as_set(np.argwhere(seg[s] == 1))
        assert len(voxels) == (seg[s] == 1).sum()


def test_annotated_pool_of_structures_is_what_some_channel_annotates():
    seg = np.random.default_rng(0).integers(-1, 3, (3, 5, 6, 7)).astype(np.int16)
    locations = find_locations(seg, STRUCTURES)
    expected = np.argwhere(((seg == 0) | (seg == 1)).any(0))
    assert as_set(locations[ANNOTATED]) == as_set(expected)


def test_a_structure_nobody_annotated_needs_no_pool_where_others_are():
    seg = np.zeros((3, 2, 2, 2), np.int16)
    seg[1], seg[2, 0] = 2, 2
    assert find_locations(seg, STRUCTURES) == {}
    seg[0, 0] = 2
    locations = find_locations(seg, STRUCTURES)
    assert as_set(locations[ANNOTATED]) == as_set(np.argwhere(seg[0] == 0))
    nothing = find_locations(np.full((3, 2, 2, 2), 2, np.int16), STRUCTURES)
    assert len(nothing[ANNOTATED]) == 0


def test_keys_of_targets():
    assert target_keys(LABELS) == (1, 2, 3)
    assert target_keys(REGIONS) == target_keys(STRUCTURES) == (0, 1, 2)
