"""Two folders compared without a dataset.json."""

import json

import numpy as np
import pytest

from segkit.cli.main import main
from segkit.dataset.image_io import write_labels
from segkit.errors import UserError
from segkit.evaluation.labels_alone import labels_alone
from segkit.types import Geometry


@pytest.fixture
def folders(tmp_path):
    """Write a case of which 2 of 3 voxels of label 5 are found, and one that is ignored."""
    geometry = Geometry(spacing_mm=(1.0, 1.0, 1.0))
    reference, prediction = np.zeros((2, 2, 3, 4), np.uint8)
    reference[0, 0, :3], prediction[0, 0, 1:3] = 5, 5
    reference[1, 1, 1], prediction[1, 1, 1] = 9, 5
    for name, array in (("ref", reference), ("pred", prediction)):
        write_labels(tmp_path / name / "a.nii.gz", array, geometry)
    return tmp_path


def evaluate(folders, *options):
    return main(["evaluate", "-p", str(folders / "pred"), "-r", str(folders / "ref"), *options])


@pytest.mark.parametrize(("label", "name"), [("5", "label_5"), ("liver=5", "liver")])
def test_values_are_judged_by_hand(folders, label, name, capsys):
    assert evaluate(folders, "--labels", label, "--ignore-label", "9") == 0
    assert name in capsys.readouterr().out
    summary = json.loads((folders / "pred" / "summary.json").read_text())
    assert summary["labels"][name]["dice"]["mean"] == pytest.approx(2 * 2 / (3 + 2))


def test_values_that_are_not_named_are_background(tmp_path, capsys):
    rng = np.random.default_rng(0)
    maps = {name: rng.integers(0, 6, (3, 4, 5, 6)).astype(np.uint8) for name in ("ref", "pred")}
    for name, cases in maps.items():
        cases[:2][cases[:2] == 5] = 0
        for number, case in enumerate(cases):
            write_labels(tmp_path / name / f"{number}.nii.gz", case, Geometry(spacing_mm=(1, 1, 1)))
    assert evaluate(tmp_path, "--labels", "1", "high=3") == 0
    assert "counted as background: 2, 4, 5\n" in capsys.readouterr().err
    scores = json.loads((tmp_path / "pred" / "summary.json").read_text())["cases"]
    for number, case in enumerate(scores):
        for name, value in (("label_1", 1), ("high", 3)):
            ref, pred = (
                {place for place, found in np.ndenumerate(maps[side][number]) if found == value}
                for side in ("ref", "pred")
            )
            found = case["labels"][name]
            assert found["dice"] == pytest.approx(2 * len(ref & pred) / (len(ref) + len(pred)))
            assert found["precision"] == pytest.approx(len(ref & pred) / len(pred))
            assert found["volume_ref_ml"] == pytest.approx(len(ref) / 1000)
    (tmp_path / "dataset.json").write_text(
        '{"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}, "numTraining": 3, '
        '"file_ending": ".nii.gz"}'
    )
    assert evaluate(tmp_path, "-d", str(tmp_path / "dataset.json")) == 1
    assert "not declared in dataset.json: 2" in capsys.readouterr().err


def test_one_of_both_is_needed(folders, capsys):
    assert evaluate(folders) == 2
    assert "either a dataset.json or --labels" in capsys.readouterr().err
    (folders / "dataset.json").write_text("{}")
    assert evaluate(folders, "-d", str(folders / "dataset.json"), "--labels", "1") == 2
    assert evaluate(folders, "-d", str(folders / "dataset.json"), "--ignore-label", "1") == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["x"], "'x' is no label"),
        (["-1"], "'-1' is no label"),
        (["=1"], "'=1' is no label"),
        (["a=1", "a=2"], "'a' is given twice"),
        (["a=1", "b=1"], "1"),
        (["0"], "0"),
    ],
)
def test_labels_that_are_none(folders, labels, message):
    with pytest.raises(UserError, match=message):
        labels_alone(labels, folders / "pred")


def test_formats_must_be_told_apart(folders):
    with pytest.raises(UserError, match="endings found: none"):
        labels_alone(["1"], folders)
    (folders / "pred" / "b.png").touch()
    with pytest.raises(UserError, match=r"endings found: \.nii\.gz, \.png"):
        labels_alone(["1"], folders / "pred")
    with pytest.raises(UserError, match="no such folder"):
        labels_alone(["1"], folders / "nowhere")
