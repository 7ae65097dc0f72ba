import numpy as np
import pytest

from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.evaluation.explanations import enclosing_region, explain, label_errors

REGIONS = (
    Region(name="whole", members=(1, 2, 4), paint=1),
    Region(name="core", members=(2, 4), paint=2),
    Region(name="tip", members=(4,), paint=4),
)
SCHEMA = LabelSchema(
    classes=(
        LabelClass(name="rim", value=1),
        LabelClass(name="necrosis", value=2),
        LabelClass(name="tip", value=4),
    ),
    regions=REGIONS,
)
REF = [0, 0, 1, 1, 1, 2, 2, 3, 3, 0]
PRED = [1, 0, 0, 1, 1, 1, 2, 3, 2, 0]


def errors(ref, pred, schema=SCHEMA):
    maps = (np.array(row, dtype=np.int16).reshape(1, 1, -1) for row in (ref, pred))
    found = label_errors(*maps, schema, voxel_ml=0.5)
    return {entry.label: entry for entry in found}


def test_the_smallest_region_with_other_classes_is_the_one_around():
    assert enclosing_region(1, REGIONS).name == "whole"
    assert enclosing_region(4, REGIONS).name == "core"
    assert enclosing_region(3, REGIONS) is None
    equal = [Region(name=name, members=(1, 2), paint=1) for name in "ba"]
    assert enclosing_region(1, equal).name == enclosing_region(1, equal[::-1]).name == "a"


def test_errors_by_hand():
    found = errors(REF, PRED)
    rim = found["rim"]
    # Invented far outside (0) and in the necrosis (5), missed at the outer border (2).
    assert (rim.region, rim.wrong, rim.border, rim.inherited) == ("whole", 3, 2, 2)
    assert (rim.label_ml, rim.region_ml) == (1.5, 3.5)
    necrosis = found["necrosis"]
    # Missed where the core is missed too (5), invented inside the core (8), not at its border.
    assert (necrosis.region, necrosis.wrong, necrosis.inherited) == ("core", 2, 1)
    assert necrosis.border == 1
    assert (found["tip"].wrong, found["tip"].inherited) == (1, 0)


def test_neighbours_over_corners_are_at_the_border():
    ref, pred = np.zeros((2, 1, 4, 4), dtype=np.int16)
    ref[0, 1:3, 1:3] = 1
    pred[0, 0, 0] = 1
    pred[0, 1:3, 1:3] = 1
    (rim, *_) = label_errors(ref, pred, SCHEMA, 1.0)
    assert (rim.wrong, rim.border, rim.inherited) == (1, 1, 1)


def test_the_edge_of_the_image_and_ignored_voxels_are_no_border():
    # A label that fills all that is known has no border to be wrong at.
    found = errors([1, 1, 1, 4, 0], [0, 1, 1, 1, 0])
    assert (found["rim"].wrong, found["rim"].border) == (1, 0)
    assert errors([1, 4], [0, 1])["rim"].wrong == 1
    assert errors([4, 4], [0, 1]) == {}


def test_without_regions_there_is_nothing_to_explain():
    assert errors(REF, PRED, LabelSchema(classes=SCHEMA.classes)) == {}


def brute_force(ref, pred, members):
    """Count wrong, border and inherited voxels of label 1 by loops over all voxels."""
    counts = [0, 0, 0]
    for place in np.ndindex(ref.shape):
        r, p = ref[place], pred[place]
        if r == 4 or (r == 1) == (p == 1):
            continue
        around = ref[tuple(slice(max(i - 1, 0), i + 2) for i in place)]
        counts[0] += 1
        counts[1] += (around == 1).any() and ((around != 1) & (around != 4)).any()
        counts[2] += (r in members) != (p in members)
    return counts


def test_random_maps_agree_with_loops():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        shape = rng.integers(1, 6, size=3)
        ref, pred = rng.choice([-1, 0, 0, 0, 1, 2, 3, 4], size=(2, *shape)).astype(np.int16)
        found = [e for e in label_errors(ref, pred, SCHEMA, 1.0) if e.label == "rim"]
        for rim in found:
            assert [rim.wrong, rim.border, rim.inherited] == brute_force(ref, pred, {1, 2, 3}), seed


def scores(*cases):
    """Labels and regions of every case, from its Dice by name."""
    found = [{name: {"dice": value} for name, value in case.items()} for case in cases]
    labels = [{name: case[name] for name in ("rim", "necrosis", "tip")} for case in found]
    return labels, [{name: case[name] for name in ("whole", "core")} for case in found]


DICE = {"rim": 0.5, "necrosis": 0.75, "tip": None, "whole": 0.8, "core": 0.7}


def test_only_labels_below_their_region_are_explained():
    case = tuple(errors(REF, PRED).values())
    (rim,) = explain([case, case], *scores(DICE, DICE))
    assert (rim.label, rim.region, rim.wrong_voxels) == ("rim", "whole", 6)
    assert (rim.dice_label, rim.dice_region) == (0.5, 0.8)
    assert (rim.volume_label_ml, rim.volume_region_ml) == (1.5, 3.5)
    assert rim.border == rim.inherited == pytest.approx(2 / 3)
    assert rim.text == (
        "'rim' (Dice 0.500) scores below 'whole' around it (0.800). It fills 1.50 of 3.50 ml on "
        "average, so that each wrong voxel weighs more. Of its wrong voxels, 67% lie at its border "
        "(within one voxel); 67% are inherited from 'whole' (missed or invented there too), 33% "
        "are confused with other parts of 'whole'."
    )
    assert "\n" not in rim.text


def test_cases_weigh_by_their_voxels():
    first = tuple(errors(REF, PRED).values())
    second = tuple(errors([1, 1, 2, 2], [1, 1, 1, 1]).values())
    (rim,) = explain([first, second], *scores(DICE, DICE))
    assert rim.wrong_voxels == 5
    assert rim.inherited == pytest.approx(2 / 5)
    assert rim.volume_label_ml == pytest.approx((1.5 + 1.0) / 2)


def test_label_and_region_are_compared_over_the_same_cases():
    first = tuple(errors(REF, PRED).values())
    easy = tuple(errors([2, 2, 2, 0], [2, 2, 2, 0]).values())
    hard = {**DICE, "rim": 0.5, "necrosis": None, "whole": 0.4}
    without = {**DICE, "rim": None, "necrosis": None, "whole": 1.0}
    assert explain([first, easy], *scores(hard, without)) == ()
    (rim,) = explain([first, easy], *scores({**hard, "whole": 0.6}, {**without, "whole": 0.1}))
    assert (rim.dice_label, rim.dice_region) == (0.5, 0.6)
    assert (rim.volume_label_ml, rim.volume_region_ml) == (1.5, 3.5)
    assert "around it (0.600, in the 1 of 2 cases where 'rim' is scored)" in rim.text


def test_a_label_that_is_never_wrong_is_explained_by_its_absence():
    case = tuple(errors([1, 1], [1, 1]).values())
    (rim,) = explain([case], *scores({**DICE, "necrosis": None}))
    assert (rim.border, rim.inherited) == (None, None)
    assert "None of its voxels is wrong" in rim.text


@pytest.mark.parametrize("written", [False, True])
def test_a_label_no_region_writes_is_explained_by_that(written):
    regions = (Region(name="whole", members=(1, 2, 4), paint=1), *REGIONS[2:])
    schema = LabelSchema(classes=SCHEMA.classes, regions=regions)
    # Unless the predictions hold it all the same: they come from elsewhere.
    maps = ([1, 2, 2, 3], [1, 1, 1, 3]), ([1, 2, 2, 3], [1, 1, 2 if written else 1, 3])
    cases = [tuple(errors(*pair, schema).values()) for pair in maps]
    dice = {**DICE, "rim": 0.9, "necrosis": 0.0}
    (necrosis,) = explain(cases, *scores(dice, dice))
    assert (necrosis.label, necrosis.region) == ("necrosis", "whole")
    reason = (
        "'necrosis' (Dice 0.000) scores below 'whole' around it (0.800): its value 2 is not in "
        "regions_class_order, so that no prediction holds it; it comes out as another part of "
        "'whole'."
    )
    assert (necrosis.text == reason) != written
    assert ("at its border" in necrosis.text) == written


def test_without_dice_nothing_is_explained():
    case = tuple(errors(REF, PRED).values())
    assert explain([case], [{"rim": {"iou": 0.1}}], [{"whole": {"iou": 0.9}}]) == ()
