"""nnU-Net's post-processing: only the JSON is read, and only what means the same is taken."""

import json

import pytest
from nnunet_files import write_trained

from segkit.cli.main import main
from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.errors import UserError
from segkit.evaluation.postprocessing import Rule, load_postprocessing
from segkit.interop.nnunet.postprocessing import find_postprocessing, read_rules

CLASSES = (LabelClass(name="a", value=1), LabelClass(name="b", value=2))
LABELS = LabelSchema(classes=CLASSES)
REGIONS = LabelSchema(
    classes=(*CLASSES, LabelClass(name="c", value=3)),
    regions=(
        Region(name="whole", members=(1, 2), paint=1),
        Region(name="core", members=(2,), paint=2),
        Region(name="other", members=(3,), paint=3),
    ),
)
KEEP = "remove_all_but_largest_component_from_segmentation"


def written(folder, *steps, name=KEEP):
    content = {
        "input_folder": {"foreground_mean": {"Dice": float("nan")}},
        "postprocessing_fns": [name] * len(steps),
        "postprocessing_kwargs": [{"labels_or_regions": step} for step in steps],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "postprocessing.json").write_text(json.dumps(content))
    return folder / "postprocessing.json"


@pytest.mark.parametrize(
    ("schema", "step", "target"),
    [
        (LABELS, [1, 2], None),
        (LABELS, 2, "b"),
        (LABELS, [1], "a"),
        (REGIONS, [[1, 2], [2], 3], None),
        (REGIONS, [1, 2], "whole"),
        (REGIONS, 3, "other"),
    ],
)
def test_a_step_keeps_the_largest_component_of_a_target(tmp_path, schema, step, target):
    rules, left_out = read_rules(written(tmp_path, step), schema)
    assert rules == (Rule(operation="keep_largest", target=target),)
    assert left_out == ()


def test_a_region_inside_another_is_left_out(tmp_path):
    rules, [left_out] = read_rules(written(tmp_path, 2, 3), REGIONS)
    assert [rule.target for rule in rules] == ["other"]
    assert "[2]" in left_out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "no postprocessing_fns"),
        ('{"postprocessing_fns": [], "postprocessing_kwargs": [{}]}', "0 postprocessing_fns"),
    ],
)
def test_malformed_files_are_refused(tmp_path, content, message):
    path = written(tmp_path)
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_rules(path, LABELS)


def test_other_functions_are_refused(tmp_path):
    with pytest.raises(UserError, match="'mine'"):
        read_rules(written(tmp_path, 1, name="mine"), LABELS)
    with pytest.raises(UserError, match="is not known here"):
        read_rules(written(tmp_path, "a"), LABELS)


def test_the_cross_validation_over_most_folds_counts(tmp_path):
    assert find_postprocessing(tmp_path) is None
    written(tmp_path / "crossval_results_folds_0")
    most = written(tmp_path / "crossval_results_folds_0_1_2")
    assert find_postprocessing(tmp_path) == most


def test_a_model_brings_its_rules(tmp_path, capsys):
    trained = write_trained(tmp_path)
    written(trained / "crossval_results_folds_0", [1, 2], 1)
    (trained / "crossval_results_folds_0" / "postprocessing.pkl").write_bytes(b"never read")
    assert main(["import_nnunet", str(trained), "-o", str(tmp_path / "model")]) == 0
    told = capsys.readouterr().out
    assert "keep the largest component of all foreground together" in told
    rules = load_postprocessing(tmp_path / "model" / "postprocessing.json").rules
    assert [rule.target for rule in rules] == [None, "a"]
