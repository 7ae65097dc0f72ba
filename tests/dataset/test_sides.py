"""Left and right: which labels change places, and how regions and outputs follow."""

import pytest
from json_examples import MULTILABEL, PLAIN, SIDED, SIDED_REGIONS

from segkit.dataset.checks.sides import line_to_paste
from segkit.dataset.description import describe
from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.dataset.sides import Sides, class_swap, output_swap, suspected_pairs
from segkit.dataset.validation import validate_dataset
from segkit.files import write_json


def schema(*names, **more):
    classes = tuple(LabelClass(name=name, value=i) for i, name in enumerate(names, start=1))
    return LabelSchema(classes=classes, **more)


def test_what_is_not_said_and_what_is_said_to_be_none_differ(tmp_path):
    file = tmp_path / "dataset.json"
    assert describe(PLAIN, file).sides is None
    assert describe(SIDED | {"mirror_pairs": None}, file).sides is None
    assert describe(SIDED | {"mirror_pairs": []}, file).sides == Sides(pairs=())
    named = describe(SIDED | {"left_right_axis": "y"}, file).sides
    assert named == Sides(pairs=(("left lung", "right lung"),), axis="y")


def test_classes_and_outputs_change_places():
    labels = schema("a", "b", "c", "d")
    pairs = (("d", "a"),)
    assert class_swap(labels, pairs) == (3, 1, 2, 0)
    assert output_swap(labels, pairs) == (0, 4, 2, 3, 1)
    structures = schema("a", "b", "c", "d", overlapping=True)
    assert output_swap(structures, pairs) == (3, 1, 2, 0)


def test_regions_follow_their_classes(tmp_path):
    description = describe(SIDED_REGIONS, tmp_path / "dataset.json")
    assert [region.name for region in description.labels.regions][:2] == ["left", "right"]
    assert output_swap(description.labels, description.sides.pairs) == (1, 0, 3, 2)


def test_a_structure_whose_other_half_is_left_out_is_widowed():
    sides = Sides(pairs=(("l", "r"), ("a", "b"), ("x", "y")))
    assert sides.without(["r", "x", "y", "z"]) == Sides(pairs=(("a", "b"),), widowed=("l",))
    assert sides.without([]) == sides


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("left kidney", "right kidney"),
        ("kidney_left", "kidney_right"),
        ("Kidney-L", "Kidney-R"),
        ("kidneyLeft", "kidneyRight"),
        ("LeftKidney", "RightKidney"),
        ("rib_left_1", "rib_right_1"),
        ("L", "R"),
        ("ctx-lh-cuneus", "ctx-rh-cuneus"),
        ("ren sinister", "ren dexter"),
        ("linke Niere", "rechte Niere"),
        ("Left-Lateral-Ventricle", "Right-Lateral-Ventricle"),
        ("LEFT", "RIGHT"),
    ],
)
def test_names_that_say_left_and_right(first, second):
    assert suspected_pairs(schema(first, "other", second)) == ((first, second),)
    # The order of declaration stays; a pair begins with its left.
    assert suspected_pairs(schema(second, first)) == ((first, second),)


@pytest.mark.parametrize(
    "names",
    [
        ("left kidney", "right lung"),
        ("left ventricle", "right ventricle"),  # of the heart: not each other's image
        ("left atrium", "right atrium"),
        ("left liver lobe", "right liver lobe"),
        ("Anterior", "Posterior"),
        ("L4", "R4"),
        ("leftover", "rightover"),
        ("left kidney", "right kidney", "Right Kidney"),
        ("left kidney",),
        ("lung", "liver"),
    ],
)
def test_names_that_do_not(names):
    assert suspected_pairs(schema(*names)) == ()


def test_all_24_ribs_of_a_body_are_paired():
    names = [f"rib_{side}_{i}" for side in ("left", "right") for i in range(1, 13)]
    pairs = suspected_pairs(schema(*names))
    assert pairs == tuple((f"rib_left_{i}", f"rib_right_{i}") for i in range(1, 13))


def test_validate_proposes_a_line_to_paste(tmp_path):
    content = {key: value for key, value in SIDED.items() if key != "mirror_pairs"}
    write_json(tmp_path / "dataset.json", content)
    report = validate_dataset(tmp_path, jobs=1)
    (hint,) = (found for found in report.problems if found.code == "SK-D056")
    assert hint.severity == "warning"
    line = '"mirror_pairs": [["left lung", "right lung"]]'
    assert line in hint.fix
    assert line_to_paste((("left lung", "right lung"),)) == line
    for said in (SIDED, SIDED | {"mirror_pairs": []}, MULTILABEL):
        write_json(tmp_path / "dataset.json", said)
        assert "SK-D056" not in str(validate_dataset(tmp_path, jobs=1))


def test_regions_that_suspected_pairs_would_tear_are_left_alone(tmp_path):
    labels = {"background": 0, "body": [1, 2, 3], "left a": 1, "right a": 2, "half": [1, 3]}
    content = SIDED | {"labels": labels, "regions_class_order": [3, 1, 2, 3], "mirror_pairs": None}
    assert suspected_pairs(describe(content, tmp_path / "dataset.json").labels) == ()
    whole = {**labels, "half": [1, 2]}
    kept = describe(content | {"labels": whole}, tmp_path / "dataset.json").labels
    assert suspected_pairs(kept) == (("left a", "right a"),)
