"""``segkit quantize``, and predicting in integers afterwards."""

import dataclasses
import json
import shutil
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tiny import tiny_plan, write_description, write_model

import segkit
from segkit.cli.main import main
from segkit.dataset.image_io import read_labels
from segkit.dataset.image_io.sitk_io import write as write_image
from segkit.errors import UserError
from segkit.inference.engines import ENGINES, openvino
from segkit.inference.engines.openvino import has_int8
from segkit.inference.ensemble_folder import save_ensemble
from segkit.types import Geometry
from segkit.workflows import quantization
from segkit.workflows.quantization import Agreement

SHAPE, GRID = (9, 14, 11), Geometry(spacing_mm=(1.0, 1.0, 1.0))
runs = pytest.mark.skipif(
    not (has_int8() and find_spec("openvino")), reason="needs openvino and a processor with int8"
)


@pytest.fixture
def place(tmp_path):
    """Six images, and a model of two folds."""
    rng = np.random.default_rng(0)
    for case in "abcdef":
        image = rng.normal(10, 3, SHAPE).astype(np.float32)
        write_image(tmp_path / f"in/{case}_0000.nii.gz", image, GRID)
    write_model(tmp_path / "model", tiny_plan(), folds=(0, 1), mirror_axes=(0,))
    return tmp_path


def call(capsys, command, *arguments, code=0):
    found = main([command, *map(str, arguments), "-j", "1", "--device", "cpu"])
    out = capsys.readouterr()
    assert found == code, out.err
    return out


def predict(capsys, place, model, out, engine, *options, code=0):
    given = ("-i", place / "in", "-o", place / out, "--precision", "fp32", "--engine", engine)
    given += options
    return call(capsys, "predict", "-m", place / model, *given, code=code)


@runs
def test_a_model_predicts_in_integers_once_it_was_measured(place, capsys):
    err = predict(capsys, place, "model", "out", "openvino-int8", code=1).err
    assert f"segkit quantize -m {place / 'model'} -i IMAGES" in err
    told = call(capsys, "quantize", "-m", place / "model", "-i", place / "in", "--cases", "2")
    out = told.out
    assert "image(s) are given" not in told.err
    files = [place / "model" / f"fold_{fold}" / "final_int8.json" for fold in (0, 1)]
    assert [json.loads(path.read_text())["images"] for path in files] == [2, 2]
    assert f"calibrated on 2 image(s): {files[0]}, {files[1]}" in out
    assert "on 2 other image(s)" in out
    assert out.endswith(
        f"segkit predict -m {place / 'model'} -i IMAGES -o OUTPUT --engine openvino-int8\n"
    )
    for engine in ("torch", "openvino-int8"):
        predict(capsys, place, "model", engine, engine)
    labels = [read_labels(place / e / "c.nii.gz").array for e in ("torch", "openvino-int8")]
    assert (labels[0] == labels[1]).mean() > 0.9
    records = [
        json.loads((place / e / "predicted_by.json").read_text())["source"]
        for e in ("torch", "openvino-int8")
    ]
    assert records[1]["engine"] == "openvino-int8"
    # Other ranges predict otherwise, and what was predicted with them is not kept.
    assert records[0]["members"][0]["folds"] != records[1]["members"][0]["folds"]
    call(capsys, "quantize", "-m", place / "model", "-i", place / "in/a_0000.nii.gz")
    predict(capsys, place, "model", "again", "openvino-int8")
    again = json.loads((place / "again/predicted_by.json").read_text())["source"]
    assert again["members"][0]["folds"] != records[1]["members"][0]["folds"]


@runs
def test_all_members_of_several_models_are_measured(place, capsys):
    other = write_model(place / "other", tiny_plan(), folds=(0, 1))
    both = ("-m", place / "model", other)
    what = ("-i", place / "in", "--engine", "openvino-int8")
    segkit.quantize(place / "model", place / "in", cases=1)
    # Only what is missing is asked for.
    err = call(capsys, "predict", *both, *what, "-o", place / "both", code=1).err
    assert f"fix:   segkit quantize -m {other} -i IMAGES" in err
    told = call(capsys, "quantize", *both, "-i", place / "in")
    assert "6 image(s) are given, 16 were asked for" in told.err
    assert f"segkit predict -m {place / 'model'} {other} -i" in told.out
    call(capsys, "predict", *both, *what, "-o", place / "both")
    for path in place.glob("*/fold_*/final_int8.json"):
        path.unlink()
    save_ensemble(place / "best", {place / "model": 1.0, other: 1.0}, ("0",))
    written = segkit.quantize(place / "best", place / "in", cases=1)
    assert [path.relative_to(place / "best").parts[1:] for path in written] == [
        ("model", "fold_0", "final_int8.json"),
        ("other", "fold_0", "final_int8.json"),
    ]
    # The folds are linked files; those of the models themselves stay as they were.
    assert not (place / "model/fold_0" / "final_int8.json").exists()
    predict(capsys, place, "best", "out", "openvino-int8")
    # What was measured goes along when a model is taken into a folder of several.
    segkit.quantize(other, place / "in", cases=1)
    save_ensemble(place / "next", {other: 1.0}, ("0",))
    assert (place / "next/members/other/fold_0" / "final_int8.json").exists()


@runs
def test_one_image_is_measured_and_compared_on_and_a_bad_agreement_is_told(
    place, capsys, monkeypatch
):
    monkeypatch.setattr(quantization, "ENOUGH", 1.1)
    told = call(capsys, "quantize", "-m", place / "model", "-i", place / "in/a_0000.nii.gz")
    assert "on the same 1 image(s)" in told.out
    assert "one image is given: it proves little" in told.err
    assert "evaluate both on labelled cases first" in told.err


@runs
def test_other_folds_and_checkpoints_are_told_and_have_ranges_of_their_own(place, capsys):
    for fold in (0, 1):
        folder = place / f"model/fold_{fold}"
        shutil.copy(folder / "final.pt", folder / "best.pt")
    what = ("-m", place / "model", "-i", place / "in/a_0000.nii.gz")
    chosen = ("--folds", "1", "--checkpoint", "best")
    err = predict(capsys, place, "model", "out", "openvino-int8", *chosen, code=1).err
    command = f"segkit quantize -m {place / 'model'} --folds 1 --checkpoint best -i IMAGES"
    assert command in err
    out = call(capsys, "quantize", *what, *chosen).out
    assert "--folds 1 --checkpoint best" in out.splitlines()[-1]
    predict(capsys, place, "model", "out", "openvino-int8", *chosen)
    assert [path.name for path in place.glob("model/*/*_int8.json")] == ["best_int8.json"]


@runs
def test_ranges_that_no_engine_takes_are_not_left_behind(place, capsys, monkeypatch):
    refused = dataclasses.replace(ENGINES["openvino-int8"], most_apart={torch.float32: 0.0})
    monkeypatch.setitem(ENGINES, "openvino-int8", refused)
    what = ("-m", place / "model", "-i", place / "in", "--precision", "fp32", "--cases", "1")
    assert "gives other logits than torch" in call(capsys, "quantize", *what, code=1).err
    assert not list(place.glob("model/*/*_int8.json"))


def test_wrong_use_is_refused(place, capsys, monkeypatch):
    what = ("-m", place / "model", "-i", place / "in")
    assert "--cases must be at least 1" in call(capsys, "quantize", *what, "--cases", 0, code=2).err
    with pytest.raises(UserError, match="integers are for CPUs, not for cuda"):
        segkit.quantize(place / "model", place / "in", device="cuda")
    with pytest.raises(UserError, match="not a model folder"):
        segkit.quantize(place, place / "in")
    for name in ("has_int8", "import_openvino"):
        monkeypatch.setattr(openvino, name, lambda: False)
    with pytest.raises(UserError, match="no instructions for convolutions in int8"):
        segkit.quantize(place / "model", place / "in")
    monkeypatch.undo()
    monkeypatch.setattr(openvino, "has_int8", lambda: True)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="OpenVINO is not installed"):
        segkit.quantize(place / "model", place / "in")
    assert not list(place.glob("model/*/*_int8.json"))


def test_agreement_is_counted_by_class(tmp_path):
    schema = write_description(tmp_path).labels
    agreement = Agreement(schema=schema)
    assert agreement.lowest == (1.0, "nothing was found")
    one = np.array([[[[1, 1, 2, 0]]]])
    other = np.array([[[[1, 0, 2, 0]]]])
    agreement.add(one, other)
    # a: one voxel of three in both; b: the same.
    assert agreement.lowest == (2 / 3, "a")
    agreement.add(one, one)
    assert agreement.lowest == (6 / 7, "a")
    assert agreement.describe() == (
        "87.500% of the voxels are the same, the lowest Dice of a class is 0.8571 (a)"
    )


def test_agreement_of_structures_is_counted_in_their_channels(tmp_path):
    labels = {"background": 0, "a": 1, "b": 2}
    schema = write_description(tmp_path, labels=labels, label_encoding="multilabel").labels
    agreement = Agreement(schema=schema)
    one = np.array([[[[1, 1]]], [[[1, 0]]]], dtype=np.int8)
    other = np.array([[[[1, 1]]], [[[1, 1]]]], dtype=np.int8)
    agreement.add(one, other)
    assert agreement.both == {"a": 2, "b": 1}
    assert agreement.lowest == (2 / 3, "b")
