"""Where left and right are in planned arrays, and what becomes of them."""

from dataclasses import replace

import pytest

from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.dataset.sides import Sides
from segkit.planning.plan import Plan
from segkit.planning.sides import PatchSides, explain_sides, left_right_axis, patch_sides

PLAN = Plan(
    planner="default",
    dataset="Dataset001_X",
    channel_names=("CT",),
    transpose_forward=(0, 1, 2),
    orientation="LPS",
    intensities=(),
)
PAIRED = LabelSchema(
    classes=tuple(LabelClass(name=n, value=i) for i, n in enumerate(("left a", "right a", "b"), 1))
)
PLAIN = LabelSchema(classes=(LabelClass(name="a", value=1),))
PAIRS = (("left a", "right a"),)


@pytest.mark.parametrize(
    ("orientation", "transpose", "stated", "axis"),
    [
        ("LPS", (0, 1, 2), None, 2),
        ("RAS", (0, 1, 2), None, 2),
        ("PIR", (0, 1, 2), None, 0),  # sagittal slices
        ("PIR", (1, 2, 0), None, 2),
        ("SLA", (2, 0, 1), None, 2),
        ("LPS", (2, 0, 1), None, 0),
        (None, (0, 1, 2), None, None),
        (None, (0, 1, 2), "x", 2),
        (None, (0, 1, 2), "y", 1),
        ("LPS", (0, 1, 2), "z", 0),  # what is said counts
    ],
)
def test_the_axis_follows_orientation_and_transposition(orientation, transpose, stated, axis):
    plan = replace(PLAN, orientation=orientation, transpose_forward=transpose)
    assert left_right_axis(plan, Sides(pairs=PAIRS, axis=stated)) == axis


def test_a_plane_lacks_the_first_planned_axis():
    sides = Sides(pairs=PAIRS)
    assert patch_sides(PLAN, 3, PAIRED, sides).axis == 2
    assert patch_sides(PLAN, 2, PAIRED, sides).axis == 1
    across = replace(PLAN, transpose_forward=(2, 0, 1))
    assert patch_sides(across, 2, PAIRED, sides) == PatchSides(pairs=PAIRS, axis=None)
    unknown = replace(PLAN, orientation=None)
    assert patch_sides(unknown, 2, PAIRED, sides) == PatchSides(pairs=PAIRS, known=False)


def test_what_nobody_said_what_is_said_and_what_lost_its_other_half():
    assert not patch_sides(PLAN, 3, PLAIN, None).matter
    assert patch_sides(PLAN, 3, PAIRED, None) == PatchSides(axis=2, apart=True)
    assert not patch_sides(PLAN, 3, PAIRED, Sides(pairs=())).matter
    assert patch_sides(PLAN, 3, PAIRED, Sides(pairs=PAIRS)) == PatchSides(pairs=PAIRS, axis=2)
    widowed = patch_sides(PLAN, 3, PLAIN, Sides(pairs=(), widowed=("left a",)))
    assert widowed == PatchSides(axis=2, apart=True)


def test_the_explanation_holds_a_line_to_paste():
    assert explain_sides(PLAN, PLAIN, None) == ()
    assert explain_sides(PLAN, PAIRED, Sides(pairs=())) == ()
    (hint,) = explain_sides(PLAN, PAIRED, None)
    assert "left a / right a" in hint
    assert "planned axis 2 is not mirrored" in hint
    assert '"mirror_pairs": [["left a", "right a"]]' in hint
    (said,) = explain_sides(PLAN, PAIRED, Sides(pairs=PAIRS))
    assert "1 pair of labels change places when planned axis 2 is mirrored" in said
    (lost,) = explain_sides(PLAN, PLAIN, Sides(pairs=(), widowed=("left a",)))
    assert "left a lost its other half" in lost
    (unknown,) = explain_sides(replace(PLAN, orientation=None), PAIRED, None)
    assert "an unknown axis" in unknown
