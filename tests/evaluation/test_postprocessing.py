"""Rules on label maps against scipy, target by target, and their file."""

import json

import numpy as np
import pytest
from scipy import ndimage

from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.errors import UserError
from segkit.evaluation.editing import edits_of
from segkit.evaluation.postprocessing import (
    Postprocessing,
    Rule,
    Trial,
    apply_rules,
    check_rules,
    load_postprocessing,
    save_postprocessing,
)
from segkit.types import Geometry

A, B, C = (LabelClass(name=name, value=value) for name, value in zip("abc", (7, 2, 5), strict=True))
CLASSES = LabelSchema(classes=(A, B, C))
NESTED = LabelSchema(
    classes=(A, B, C),
    regions=(
        Region(name="whole", members=(7, 2, 5), paint=7),
        Region(name="core", members=(2, 5), paint=2),
        Region(name="inner", members=(5,), paint=5),
    ),
)
CROSSING = LabelSchema(
    classes=(A, B, C),
    regions=(
        Region(name="left", members=(7, 2), paint=7),
        Region(name="right", members=(2, 5), paint=5),
    ),
)
STRUCTURES = LabelSchema(classes=(A, B, C), overlapping=True)
GRID = Geometry(spacing_mm=(4.0, 0.5, 1.0))
VOXEL = 2.0


def blobs(rng, shape, schema, *, holes=True):
    """Random label maps with pieces of many sizes, touching each other, and holes."""
    maps = []
    for _ in range(schema.seg_channels):
        smooth = ndimage.gaussian_filter(rng.normal(size=shape), (0.4, 0.8, 0.8))
        levels = np.quantile(smooth, np.linspace(0.3, 1, schema.num_classes)[:-1])
        found = np.digitize(smooth, levels)
        if holes:
            found[rng.random(shape) < 0.05] = 0
        maps.append(found)
    return np.stack(maps).astype(np.int8 if schema.overlapping else np.int16)


def labelled(mask):
    numbers, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return [numbers == i for i in range(1, count + 1)]


def kept(rule, mask, voxel=VOXEL):
    """Pieces that stay, one after the other."""
    pieces = labelled(mask)
    sizes = [piece.sum() for piece in pieces]
    result = np.zeros_like(mask)
    for piece, size in zip(pieces, sizes, strict=True):
        stays = (
            size == max(sizes) if rule.operation == "keep_largest" else size * voxel >= rule.min_mm3
        )
        result |= piece & stays
    return result


def filled(mask):
    if mask.shape[0] == 1:
        return ndimage.binary_fill_holes(mask[0])[None]
    return ndimage.binary_fill_holes(mask)


def expected_of_classes(rule, indices):
    result = indices.copy()
    if rule.target is None:
        result[0][(indices[0] > 0) & ~kept(rule, indices[0] > 0)] = 0
        return result
    index = "abc".index(rule.target) + 1
    mask = indices[0] == index
    if rule.operation == "fill_holes":
        result[0][filled(mask) & (indices[0] == 0)] = index
    else:
        result[0][mask & ~kept(rule, mask)] = 0
    return result


def expected_of_structures(rule, indices):
    result = indices.copy()
    if rule.target is None:
        result[:, ~kept(rule, indices.any(axis=0))] = 0
        return result
    mask = indices["abc".index(rule.target)].astype(bool)
    new = filled(mask) if rule.operation == "fill_holes" else kept(rule, mask)
    result["abc".index(rule.target)] = new
    return result


def expected_of_nested(rule, indices):
    """Work on the three channels that a network predicts, and paint them."""
    channels = {
        name: indices[0] >= level for level, name in enumerate(("whole", "core", "inner"), 1)
    }
    if rule.operation == "fill_holes":
        channels[rule.target] = filled(channels[rule.target])
    else:
        lost = channels[rule.target or "whole"] & ~kept(rule, channels[rule.target or "whole"])
        inside = list(channels)[list(channels).index(rule.target or "whole") :]
        for name in inside:
            channels[name] = channels[name] & ~lost
    levels = [level * channel for level, channel in enumerate(channels.values(), 1)]
    return np.max(levels, axis=0)[None].astype(indices.dtype)


RULES = [
    {"operation": "keep_largest"},
    {"operation": "remove_small", "min_mm3": 2.0},
    {"operation": "remove_small", "min_mm3": 9.0},
    {"operation": "remove_small", "min_mm3": 1e6},
    {"operation": "fill_holes"},
]
EXPECTED = [
    (CLASSES, expected_of_classes),
    (STRUCTURES, expected_of_structures),
    (NESTED, expected_of_nested),
]


@pytest.mark.parametrize("shape", [(5, 14, 16), (1, 20, 22)], ids=["volume", "plane"])
@pytest.mark.parametrize(("schema", "expected"), EXPECTED, ids=["classes", "structures", "regions"])
def test_rules_do_what_scipy_does(schema, expected, shape):
    changed = 0
    for seed in range(4):
        indices = blobs(np.random.default_rng(seed), shape, schema)
        for target in (None, *schema.target_names):
            for rule in RULES:
                if target is None and rule["operation"] == "fill_holes":
                    continue
                rule_ = Rule(target=target, **rule)
                before = indices.copy()
                found = apply_rules([rule_], indices, GRID, schema)
                np.testing.assert_array_equal(found, expected(rule_, indices), err_msg=str(rule_))
                np.testing.assert_array_equal(indices, before)
                assert found.dtype == indices.dtype
                changed += (found != indices).any()
    assert changed > 20


def test_rules_follow_each_other():
    indices = blobs(np.random.default_rng(0), (5, 14, 16), CLASSES)
    rules = [
        Rule(operation="keep_largest", target=None),
        Rule(operation="remove_small", target="b", min_mm3=9.0),
        Rule(operation="fill_holes", target="b"),
        Rule(operation="keep_largest", target="a"),
    ]
    expected = indices
    for rule in rules:
        expected = expected_of_classes(rule, expected)
    np.testing.assert_array_equal(apply_rules(rules, indices, GRID, CLASSES), expected)


def test_equally_large_pieces_all_stay():
    row = np.array([1, 1, 0, 1, 1, 0, 1], np.int16).reshape(1, 1, 1, -1)
    found = apply_rules([Rule(operation="keep_largest", target="a")], row, GRID, CLASSES)
    assert found.ravel().tolist() == [1, 1, 0, 1, 1, 0, 0]


def test_corners_connect():
    square = np.zeros((1, 2, 3, 3), np.int16)
    square[0, 0, 0, 0] = square[0, 1, 1, 1] = square[0, 0, 2, 2] = 1
    found = apply_rules([Rule(operation="keep_largest", target="a")], square, GRID, CLASSES)
    np.testing.assert_array_equal(found, square)


def test_volumes_are_in_mm3_and_a_plane_is_1_mm_thick():
    row = np.array([1, 1, 0, 1], np.int16).reshape(1, 1, 1, -1)
    rule = Rule(operation="remove_small", target="a", min_mm3=3.0)
    assert apply_rules([rule], row, GRID, CLASSES).ravel().tolist() == [1, 1, 0, 0]
    plane = Geometry(spacing_mm=(999.0, 0.5, 1.0), stored_ndim=2)
    assert not apply_rules([rule], row, plane, CLASSES).any()


def test_what_is_no_class_is_background():
    row = np.array([1, 4, -1, 3], np.int16).reshape(1, 1, 1, -1)
    assert apply_rules([], row, GRID, CLASSES).ravel().tolist() == [1, 0, 0, 3]
    empty = np.zeros((1, 2, 3, 4), np.int16)
    for rule in RULES:
        assert not apply_rules([Rule(target="a", **rule)], empty, GRID, CLASSES).any()


def test_regions_that_cross_lose_only_their_own():
    # a is left alone, b is left and right, c is right alone.
    (left,), (right,) = edits_of(CROSSING, "left"), edits_of(CROSSING, "right")
    assert left.removed.tolist() == [0, 0, 3, 3]
    assert right.removed.tolist() == [0, 1, 1, 0]
    # A hole in left may be filled with a where nothing is; over c, right would lose a voxel.
    assert left.filled.tolist() == [1, 1, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"operation": "remove_small", "target": "a"},
        {"operation": "remove_small", "target": "a", "min_mm3": 0.0},
        {"operation": "keep_largest", "target": "a", "min_mm3": 1.0},
        {"operation": "fill_holes", "target": None},
    ],
)
def test_impossible_rules(wrong):
    with pytest.raises(ValueError, match=r"min_mm3|fill_holes"):
        Rule(**wrong)


def test_rules_for_other_targets_are_refused():
    rule = Rule(operation="keep_largest", target="core")
    check_rules([rule, Rule(operation="keep_largest", target=None)], NESTED, where="x")
    with pytest.raises(UserError, match="no target 'core'"):
        check_rules([rule], CLASSES, where="x")


def test_the_file_round_trips_and_holds_no_code(tmp_path):
    rules = (Rule(operation="remove_small", target="a", min_mm3=5.0),)
    trial = Trial(
        target=None,
        adopted=False,
        rule=None,
        dice_before=0.5,
        dice_after=None,
        cases=3,
        why="nothing helps",
    )
    content = Postprocessing(rules=rules, trials=(trial,), dataset={"labels": {"a": 1}})
    save_postprocessing(tmp_path / "p.json", content, made_from="x")
    assert load_postprocessing(tmp_path / "p.json") == content
    text = json.loads((tmp_path / "p.json").read_text())
    assert text["made_from"] == "x"
    text["rules"][0]["operation"] = "sharpen"
    (tmp_path / "p.json").write_text(json.dumps(text))
    with pytest.raises(UserError, match="sharpen"):
        load_postprocessing(tmp_path / "p.json")
    assert Postprocessing(rules=rules).hash() == content.hash()
