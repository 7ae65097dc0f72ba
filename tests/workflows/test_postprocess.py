"""``segkit postprocess``, and rules in a model folder."""

import json
import shutil

import numpy as np
import pytest
from commands import segkit
from tiny import tiny_configuration, tiny_plan, write_description, write_model

from segkit.dataset.description import load_description
from segkit.dataset.image_io import read_labels, write_labels
from segkit.dataset.image_io.sitk_io import write as write_image
from segkit.evaluation.fitting import fit_postprocessing
from segkit.evaluation.pairs import pair_files
from segkit.evaluation.postprocessing import (
    Postprocessing,
    Rule,
    apply_rules,
    load_postprocessing,
    save_postprocessing,
)
from segkit.inference.record import MemberSource, PredictionSource, open_record, read_record
from segkit.inference.record import record_path as path_of
from segkit.types import Geometry
from segkit.workflows.predictor import Predictor

GRID = Geometry(spacing_mm=(2.0, 1.0, 1.5), origin=(1.0, 2.0, 3.0))


def put(folder, case, rows):
    write_labels(folder / f"{case}.nii.gz", np.array([rows], np.uint8), GRID)


def read(folder, case):
    volume = read_labels(folder / f"{case}.nii.gz")
    assert volume.geometry == GRID
    return volume.array[0, 0].tolist()


@pytest.fixture
def folders(tmp_path):
    """Six cases: predictions have a false a, a true second b, and an unannotated false b."""
    labels = {"background": 0, "a": 1, "b": 2, "ignore": 3}
    write_description(tmp_path, labels=labels)
    for number in range(6):
        top = [1, 1, 1, 0, 0, 2, 2, 0]
        put(tmp_path / "ref", f"c{number}", [top, [0] * 8, [0, 3, 0, 0, 2, 0, 0, 0]])
        pred = [top, [0] * 8, [0, 2, 0, 0, 2, 0, number % 2, 0]]
        put(tmp_path / "pred", f"c{number}", pred)
    return tmp_path


def fit(capsys, folder, *options, code=0):
    given = ("-p", folder / "pred", "-r", folder / "ref", "-d", folder / "dataset.json")
    rules = ("-o", folder / "rules.json")
    return segkit(capsys, "postprocess", "--fit", *given, *rules, *options, code=code)


def test_rules_are_found_and_applied(folders, capsys):
    told = fit(capsys, folders).out
    assert told.startswith("post-processing: remove components of a below 5 mm3: Dice 0.92")
    out = folders / "out"
    given = ("-i", folders / "pred", "-o", out, "--rules", folders / "rules.json")
    told = segkit(capsys, "postprocess", *given).out
    assert told == f"remove components of a below 5 mm3\n6 case(s), in {out}\n"
    for number in range(6):
        before = read(folders / "pred", f"c{number}")
        before[2][6] = 0
        assert read(out, f"c{number}") == before
    assert load_postprocessing(folders / "rules.json").weights == {}


def test_rules_are_judged_by_the_folds_that_folders_are(folders, capsys):
    cases = [f"c{number}" for number in range(6)]
    folds = {case: str(int(case[1]) % 2) for case in cases}
    spread = [folders / f"fold_{fold}" / "validation" for fold in (0, 1)]
    for case in cases:
        target = spread[int(folds[case])]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(folders / "pred" / f"{case}.nii.gz", target)
    reference, description = folders / "ref", load_description(folders)
    given = ("-r", reference, "-d", folders / "dataset.json", "-o", folders / "rules.json")
    told = segkit(capsys, "postprocess", "--fit", "-p", *spread, *given).out
    # Every second case has a false voxel of a: the folds without one know of no rule for it.
    assert told.startswith("post-processing: nothing helps enough")
    pairs, _ = pair_files([folders / "pred"], reference, description)
    trials = load_postprocessing(folders / "rules.json").trials
    assert trials == fit_postprocessing(pairs, description, folds=folds, jobs=1).trials
    assert trials != fit_postprocessing(pairs, description, jobs=1).trials
    shutil.copy(folders / "pred" / "c0.nii.gz", spread[1])
    told = segkit(capsys, "postprocess", "--fit", "-p", *spread, *given, code=1).err
    assert f"predicted in two folders: c0\nwhere: {spread[0]} and {spread[1]}" in told


def test_who_predicted_is_carried_over(folders, capsys):
    fit(capsys, folders)
    member = MemberSource(model="m", checkpoint="final", folds={"0": "h"}, made_from="f")
    source = PredictionSource(
        members=(member,), step=0.5, mirrored=True, precision="float32", engine="torch"
    )
    for part in (0, 1):
        with open_record(folders / "pred", source, (part, 2)) as record:
            record.add(f"c{part}", f"images {part}")
    given = ("--rules", folders / "rules.json")
    segkit(capsys, "postprocess", "-i", folders / "pred", "-o", folders / "out", *given)
    found = read_record(path_of(folders / "out"))
    assert found.cases == {"c0": "images 0", "c1": "images 1"}
    assert found.source.postprocessing == load_postprocessing(folders / "rules.json").hash()
    told = segkit(capsys, "postprocess", "-i", folders / "out", "-o", folders / "out2", *given)
    assert "post-processed before" in told.err


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--fit", "-p", "pred", "-o", "rules.json"], 2, "--fit needs"),
        (["--fit", "-p", "pred", "-r", "ref", "-d", "dataset.json", "-o", "out"], 2, "--fit needs"),
        (["-i", "pred", "-o", "out"], 2, "rules are needed"),
        (["-i", "pred", "-o", "pred", "--rules", "rules.json"], 1, "overwrite the input"),
        (["-i", "pred", "-o", "out", "--rules", "no.json"], 1, "file not found"),
        (["-i", "nothing", "-o", "out", "--rules", "rules.json"], 1, "no such folder"),
        (["-i", "ref/..", "-o", "out", "--rules", "rules.json"], 1, "no label map"),
    ],
)
def test_mistakes(folders, capsys, monkeypatch, options, code, told):
    fit(capsys, folders)
    monkeypatch.chdir(folders)
    assert told in segkit(capsys, "postprocess", *options, code=code).err


def test_rules_for_other_labels_are_refused(folders, capsys):
    fit(capsys, folders)
    write_description(folders / "other", labels={"background": 0, "x": 1, "b": 2})
    given = ("-i", folders / "pred", "-o", folders / "out", "--rules", folders / "rules.json")
    told = segkit(capsys, "postprocess", *given, "-d", folders / "other", code=1).err
    assert "there is no target 'a'" in told


RULES = (Rule(operation="keep_largest", target="b"), Rule(operation="fill_holes", target="a"))


@pytest.fixture
def model(tmp_path):
    """A model of random weights with rules, and an image to predict."""
    plan = tiny_plan(tiny_configuration(stages=2), orientation="LPS")
    folder = write_model(tmp_path / "model", plan)
    image = np.random.default_rng(0).normal(10, 3, (8, 14, 11)).astype(np.float32)
    image[:, :4] = 0
    write_image(tmp_path / "in/x_0000.nii.gz", image, GRID)
    save_rules(folder, RULES)
    return folder


def save_rules(folder, rules, **content):
    described = json.loads((folder / "dataset.json").read_text())
    made = Postprocessing(rules=rules, dataset=described, **content)
    save_postprocessing(folder / "postprocessing.json", made, made_from="x")


def predict(capsys, model, out, *options, code=0):
    given = ("-i", model.parent / "in", "-o", model.parent / out, "-m", model, "--device", "cpu")
    return segkit(capsys, "predict", *given, *options, code=code).err


def test_a_model_applies_its_own_rules(model, capsys):
    told = predict(capsys, model, "out")
    assert "post-processing: keep the largest component of b; fill the holes of a" in told
    assert "post-processing" not in predict(capsys, model, "raw", "--no-postprocessing")
    raw, out = (read_labels(model.parent / name / "x.nii.gz") for name in ("raw", "out"))
    predictor = Predictor.from_folder(model, device="cpu")
    schema = predictor.work.model.description.labels
    expected = apply_rules(RULES, schema.encode(raw.array), GRID, schema)
    # What is outside the image stays empty, whatever encloses it.
    empty = np.zeros(expected.shape, bool)
    empty[:, :, :4] = True
    expected[empty] = 0
    np.testing.assert_array_equal(out.array, expected)
    assert (raw.array != out.array).any()
    image = np.random.default_rng(0).normal(10, 3, (8, 14, 11)).astype(np.float32)
    image[:, :4] = 0
    found = predictor.predict(image, GRID.spacing_mm)
    np.testing.assert_array_equal(found, out.array[0])
    found = predictor.without_postprocessing().predict(image, GRID.spacing_mm)
    np.testing.assert_array_equal(found, raw.array[0])
    records = [read_record(path_of(model.parent / name)).source for name in ("raw", "out")]
    assert records[0].hash() != records[1].hash()


def test_rules_fitted_on_other_weights_are_not_used(model, capsys):
    save_rules(model, RULES, weights={"fold_0/final.pt": "other", "fold_1/final.pt": "gone"})
    told = predict(capsys, model, "out")
    assert "not used: it was fitted before fold_0/final.pt was trained" in told
    assert "keep the largest" not in told


def test_no_rules_are_no_post_processing(model, capsys):
    save_rules(model, ())
    assert "post-processing" not in predict(capsys, model, "out")


def test_rules_of_other_labels_stop_a_prediction(model, capsys):
    write_description(model.parent / "other", labels={"background": 0, "x": 1})
    other = json.loads((model.parent / "other/dataset.json").read_text())
    made = Postprocessing(rules=RULES, dataset=other)
    save_postprocessing(model / "postprocessing.json", made, made_from="x")
    assert "the labels differ: a 1, b 2 | x 1" in predict(capsys, model, "out", code=1)
