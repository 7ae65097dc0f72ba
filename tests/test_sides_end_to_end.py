"""Left and right through the real command line: proposed, declared, trained and predicted."""

import json

import numpy as np
import pytest
from commands import read_nifti, segkit, strict, write_nifti
from test_labels_end_to_end import CASES, GRID_MM

from segkit.cli.main import main
from segkit.inference.model import load_model

QUICK = ("sampling.patch_size=[8,16,16]", "sampling.batch_size=2", "iterations_per_epoch=2")


def make_dataset(folder, **content):
    """Two balls, one to the left (class 1) and one to the right (class 2)."""
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[:24, :18, :10]
    for case in CASES:
        labels = np.zeros((24, 18, 10), np.uint8)
        for label, centre in ((1, 6), (2, 17)):
            inside = (x - centre) ** 2 + (y - 9) ** 2 + (2 * (z - 5)) ** 2 < 16
            labels[inside] = label
        image = rng.normal(100, 5, labels.shape) + 60 * (labels > 0)
        write_nifti(folder / "imagesTr" / f"{case}_0000.nii.gz", image.astype(np.float32), GRID_MM)
        write_nifti(folder / "labelsTr" / f"{case}.nii.gz", labels, GRID_MM)
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "kidney left": 1, "kidney right": 2},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
        **content,
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def train(raw, work, *settings):
    command = ("train", raw, "3d_fullres", "-w", work, "--recipe", "debug", "--device", "cpu")
    return *command, "--overwrite", "--set", *QUICK, "mirror=true", *settings


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    root = tmp_path_factory.mktemp("sides")
    raw, work = root / "Dataset007_Sides", root / "work"
    make_dataset(raw)
    plan = ["plan_and_preprocess", raw, "-w", work, "-c", "3d_fullres", "-j", 1]
    assert main(list(map(str, plan))) == 0
    return raw, work


def test_names_are_told_and_not_mirrored_until_something_is_said(planned, capsys):
    raw, work = planned
    line = '"mirror_pairs": [["kidney left", "kidney right"]]'
    assert line in segkit(capsys, "validate", raw).out
    assert line in segkit(capsys, "plan", raw, "-w", work).out
    told = segkit(capsys, *train(raw, work, "final_validation=false"))
    assert "look like mirror images" in told.err
    model = work / raw.name / "models" / "default_3d_fullres_debug"
    # The files have the orientation RAS, and 2 mm slices come first.
    settings = strict(model / "model.json")
    assert (settings["mirror_axes"], settings["swap_axis"]) == ([0, 1], None)
    told = segkit(capsys, *train(raw, work, "final_validation=false", "mirror=[2]"))
    assert "mirrored as asked for" in told.err
    assert strict(model / "model.json")["mirror_axes"] == [2]


def test_pairs_are_swapped_in_training_and_prediction(planned, capsys):
    raw, work = planned
    make_dataset(raw, mirror_pairs=[["kidney left", "kidney right"]])
    assert "SK-D056" not in segkit(capsys, "validate", raw).out
    assert "1 pair of labels change places" in segkit(capsys, "plan", raw, "-w", work).out
    # Neither the plan nor what is preprocessed depends on it.
    preprocessed = segkit(capsys, "preprocess", raw, "-w", work, "-c", "3d_fullres")
    assert "0 case(s) preprocessed" in preprocessed.out
    told = segkit(capsys, *train(raw, work))
    assert "labels (kidney left / kidney right) change places when axis 2" in told.err
    folder = work / raw.name / "models" / "default_3d_fullres_debug"
    settings = strict(folder / "model.json")
    assert (settings["mirror_axes"], settings["swap_axis"]) == ([0, 1, 2], 2)
    swap = load_model(folder).side_swap
    assert (swap.axis, swap.inputs, swap.outputs) == (2, (0,), (0, 2, 1))
    out = work / "predictions"
    segkit(capsys, "predict", "-i", raw / "imagesTr", "-o", out, "-m", folder, "--device", "cpu")
    assert set(np.unique(read_nifti(out / "a.nii.gz"))) <= {0, 1, 2}
