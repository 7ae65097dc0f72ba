"""How often classes, regions and structures occur, and leaving rare structures out."""

import pytest

from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.errors import UserError
from segkit.planning.fingerprint import CaseFingerprint, Fingerprint
from segkit.planning.frequencies import (
    describe_structures,
    occurrences,
    rare_structures,
    target_frequencies,
    unannotated_cases,
)

CLASSES = tuple(LabelClass(name=name, value=value) for name, value in (("a", 1), ("b", 2)))
EXCLUSIVE = LabelSchema(classes=CLASSES)
OVERLAPPING = LabelSchema(classes=CLASSES, overlapping=True)
REGIONS = LabelSchema(
    classes=CLASSES,
    regions=(
        Region(name="both", members=(1, 2), paint=1),
        Region(name="core", members=(2,), paint=2),
    ),
)


def fingerprint(*cases, combinations=({},)):
    """One case for every (voxels of a, of b, annotated for a, for b)."""
    return Fingerprint(
        cases=tuple(
            CaseFingerprint(
                case=f"case{i}",
                shape=(4, 4, 4),
                shape_after_crop=(4, 4, 4),
                spacing_mm=(1.0, 1.0, 1.0),
                orientation="LPS",
                class_voxels=counts[:2],
                annotated_voxels=counts[2:],
                combinations=combinations[i % len(combinations)],
            )
            for i, counts in enumerate(cases)
        ),
        intensities=(),
        median_relative_size_after_crop=1.0,
        labelled_share_in_zero=0.0,
        class_names=("a", "b"),
    )


def test_softmax_shares_add_up_to_one():
    found = target_frequencies(fingerprint((10, 5, 60, 60), (0, 5, 40, 40)), EXCLUSIVE)
    assert found == pytest.approx({"background": 0.8, "a": 0.1, "b": 0.1})


def test_regions_gather_the_shares_of_their_classes():
    found = target_frequencies(fingerprint((10, 5, 60, 60), (0, 5, 40, 40)), REGIONS)
    assert found == pytest.approx({"both": 0.2, "core": 0.1})


def test_structures_have_their_share_where_they_are_annotated():
    counts = fingerprint((10, 5, 60, 50), (0, 0, 40, 0))
    assert target_frequencies(counts, OVERLAPPING) == pytest.approx({"a": 0.1, "b": 0.1})
    kept = OVERLAPPING.without(("a",))
    assert target_frequencies(counts, kept) == pytest.approx({"b": 0.1})


@pytest.mark.parametrize("schema", [EXCLUSIVE, OVERLAPPING])
def test_what_is_known_nowhere_has_no_share(schema):
    assert set(target_frequencies(fingerprint((0, 0, 0, 0)), schema).values()) == {0.0}


def test_a_case_without_annotation_is_no_absence():
    counts = fingerprint((10, 5, 60, 50), (0, 0, 40, 0), (3, 0, 40, 40))
    found = occurrences(counts)
    assert (found["a"].cases, found["a"].annotated_cases) == (2, 3)
    assert (found["b"].cases, found["b"].annotated_cases) == (1, 2)


def test_cases_without_an_annotated_voxel_are_named():
    counts = fingerprint((1, 0, 60, 50), (0, 0, 0, 40), (0, 0, 0, 0))
    assert unannotated_cases(counts, OVERLAPPING) == ("case2",)
    assert unannotated_cases(counts, OVERLAPPING.without(("b",))) == ("case1", "case2")


def test_structures_of_few_cases_are_rare():
    counts = fingerprint((10, 5, 60, 50), (0, 0, 40, 0), (3, 0, 40, 40))
    assert rare_structures(counts, OVERLAPPING, 0) == ()
    assert rare_structures(counts, OVERLAPPING, 1) == ()
    assert rare_structures(counts, OVERLAPPING, 2) == ("b",)


def test_leaving_all_out_is_refused():
    counts = fingerprint((10, 5, 60, 50), (3, 0, 40, 40))
    with pytest.raises(UserError, match="none would be left") as caught:
        rare_structures(counts, OVERLAPPING, 3)
    assert caught.value.fix == "give 2 or less"


@pytest.mark.parametrize("schema", [EXCLUSIVE, REGIONS])
def test_classes_that_exclude_each_other_stay(schema):
    counts = fingerprint((10, 5, 60, 60))
    assert rare_structures(counts, schema, 0) == ()
    with pytest.raises(UserError, match="exclude each other"):
        rare_structures(counts, schema, 1)
    assert describe_structures(counts, schema, 0) == []


def test_structures_and_combinations_are_told():
    counts = fingerprint(
        (10, 5, 60, 50), (4, 0, 40, 0), combinations=({"a": 6, "a+b": 4, "b": 1}, {"a": 4})
    )
    assert describe_structures(counts, OVERLAPPING.without(("b",)), 2) == [
        "structure a: in 2 of 2 case(s), 14.000% of the voxels",
        "structure b: in 1 of 1 case(s) (1 not annotated), 10.000% of the voxels; left out: in "
        "fewer than 2 case(s)",
        "combination a: in 2 case(s), 10 voxel(s) (66.67% of the labelled ones)",
        "combination a+b: in 1 case(s), 4 voxel(s) (26.67% of the labelled ones)",
        "combination b: in 1 case(s), 1 voxel(s) (6.67% of the labelled ones)",
    ]


def test_only_the_most_frequent_combinations_are_listed():
    many = {f"c{i:02}": 100 - i for i in range(14)}
    lines = describe_structures(fingerprint((1, 1, 9, 9), combinations=(many,)), OVERLAPPING, 0)
    assert [line.split()[1].strip(":") for line in lines[2:-1]] == [f"c{i:02}" for i in range(10)]
    assert lines[-1].startswith("4 other combinations: 354 voxels (27.04%")
