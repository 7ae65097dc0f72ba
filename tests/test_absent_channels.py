"""Models that do without a channel, through the real command line."""

import json
import shutil

import numpy as np
import pytest
from commands import read_nifti, segkit, strict, write_nifti
from test_labels_end_to_end import CASES, GRID_MM

from segkit.cli.main import main

QUICK = ("sampling.patch_size=[8,16,16]", "sampling.batch_size=2", "iterations_per_epoch=30")
"""Enough steps to find a bright ball."""


def make_dataset(folder, channels=("T1", "T2")):
    """A ball that is bright in every channel."""
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[:20, :18, :10]
    ball = (x - 10) ** 2 + (y - 9) ** 2 + (2 * (z - 5)) ** 2 < 25
    for case in CASES:
        for channel in range(len(channels)):
            image = rng.normal(100, 5, ball.shape) + 60 * ball
            path = folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"
            write_nifti(path, image.astype(np.float32), GRID_MM)
        write_nifti(folder / "labelsTr" / f"{case}.nii.gz", ball.astype(np.uint8), GRID_MM)
    description = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {"background": 0, "ball": 1},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return ball


def train(raw, work, *settings):
    command = ("train", raw, "3d_fullres", "-w", work, "--recipe", "debug", "--device", "cpu")
    return *command, "--overwrite", "--set", *QUICK, "final_validation=false", *settings


def plan(raw, work):
    planning = ("plan_and_preprocess", raw, "-w", work, "-c", "3d_fullres", "-j", 1)
    assert main(list(map(str, planning))) == 0


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    root = tmp_path_factory.mktemp("absent")
    raw, work = root / "Dataset008_Absent", root / "work"
    ball = make_dataset(raw)
    plan(raw, work)
    lacking = root / "lacking"
    lacking.mkdir()
    shutil.copy(raw / "imagesTr" / "a_0000.nii.gz", lacking)
    shutil.copy(raw / "imagesTr" / "b_0001.nii.gz", lacking)
    return raw, work, lacking, ball


def test_a_model_trained_so_predicts_what_lacks_a_channel(planned, capsys, tmp_path):
    raw, work, lacking, ball = planned
    segkit(capsys, *train(raw, work, "p_channel_dropout=0.3"))
    model = work / raw.name / "models" / "default_3d_fullres_debug"
    assert strict(model / "model.json")["may_lack_channels"] is True
    told = segkit(
        capsys, "predict", "-i", lacking, "-o", tmp_path, "-m", model, "--device", "cpu"
    ).err
    assert "a has no T2 (_0001), and is predicted without" in told
    assert "b has no T1 (_0000), and is predicted without" in told
    for case in "ab":
        found = read_nifti(tmp_path / f"{case}.nii.gz") == 1
        assert 2 * (found & ball).sum() / (found.sum() + ball.sum()) > 0.8


def test_a_model_trained_without_refuses_and_says_how_it_would_not(planned, capsys, tmp_path):
    raw, work, lacking, _ = planned
    segkit(capsys, *train(raw, work, "iterations_per_epoch=1"))
    model = work / raw.name / "models" / "default_3d_fullres_debug"
    assert strict(model / "model.json")["may_lack_channels"] is False
    predict = ("predict", "-i", lacking, "-o", tmp_path, "-m", model, "--device", "cpu")
    told = segkit(capsys, *predict, code=1).err
    assert "[SK-F004] channel 1 (T2) is missing" in told
    assert "models trained with augment.p_channel_dropout above 0 predict without it" in told
    assert not list(tmp_path.glob("*.nii.gz"))


def test_the_only_channel_cannot_be_dropped(tmp_path, capsys):
    raw, work = tmp_path / "Dataset009_One", tmp_path / "work"
    make_dataset(raw, ("T1",))
    plan(raw, work)
    told = segkit(capsys, *train(raw, work, "p_channel_dropout=0.3"), code=1).err
    assert "there is one channel only" in told
