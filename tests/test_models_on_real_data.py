"""A cascade, a residual encoder, a 2D and a region model of real images, up to the best of them."""

import json
import shutil

import nibabel
import numpy as np
import pytest

from segkit.cli.main import main

CASES = ("hippocampus_001", "hippocampus_003", "hippocampus_004", "hippocampus_006")
FOLDS = [{"train": CASES[:2], "val": CASES[2:]}, {"train": CASES[2:], "val": CASES[:2]}]
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2], "posterior": [2]},
    "regions_class_order": [1, 2],
}
DEBUG = ("--recipe", "debug", "--device", "cpu", "-j", "1")
TINY = ("--set", "sampling.max_patch_voxels=20000", "precision=fp32")


def segkit(capsys, *arguments):
    assert main([*map(str, arguments)]) == 0, capsys.readouterr().err
    return capsys.readouterr()


def subset(source, folder, **changes):
    """Copy a few cases of a dataset, with two folds."""
    for case in CASES:
        for name in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    content = json.loads((source / "dataset.json").read_text())
    content |= {"numTraining": len(CASES), **changes}
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / "splits_final.json").write_text(json.dumps(FOLDS))
    return folder


def grid(path):
    image = nibabel.load(path)
    return image.shape, image.affine


def check_predictions(folder, raw, values):
    """Check that every case has labels of the dataset on the grid of its image."""
    for case in CASES:
        shape, affine = grid(folder / f"{case}.nii.gz")
        expected, theirs = grid(raw / "imagesTr" / f"{case}_0000.nii.gz")
        assert shape == expected
        np.testing.assert_allclose(affine, theirs)
        labels = np.asanyarray(nibabel.load(folder / f"{case}.nii.gz").dataobj)
        assert set(np.unique(labels).tolist()) <= values


@pytest.fixture
def hippocampus(shared_data):
    return shared_data("Dataset004_Hippocampus")


def test_cascade_residual_and_flat_models(hippocampus, tmp_path, capsys):
    raw, work = subset(hippocampus, tmp_path / "Dataset004_Few"), ("-w", tmp_path / "work")
    models = tmp_path / "work" / raw.name / "models"
    # So little memory that a patch sees too little of a case, which asks for a cascade.
    segkit(capsys, "plan_and_preprocess", raw, *work, "--gpu-memory-gb", "0.02", "-j", 1)
    told = segkit(capsys, "run", raw, *work, "-c", "2d", "3d_cascade_fullres", *DEBUG, *TINY)
    assert "default_2d_debug + default_3d_cascade_fullres_debug" in told.out
    residual = ("--planner", "resenc_m")
    segkit(capsys, "plan_and_preprocess", raw, *work, *residual, "-j", 1, "-c", "2d")
    segkit(capsys, "run", raw, *work, "-c", "2d", *residual, *DEBUG, *TINY)
    names = [
        "default_2d_debug",
        "default_3d_cascade_fullres_debug",
        "default_3d_lowres_debug",
        "resenc_m_2d_debug",
    ]
    assert sorted(path.name for path in models.iterdir()) == names
    told = segkit(capsys, "find_best", raw, *work, "--device", "cpu", "-j", 1)
    scores = json.loads((tmp_path / "work" / raw.name / "find_best.json").read_text())["scores"]
    assert len(scores) == len(names) + 6
    assert all(name in told.out for name in names)
    best, out = tmp_path / "work" / raw.name / "best", tmp_path / "out"
    images = ("-i", raw / "imagesTr", "--device", "cpu")
    segkit(capsys, "predict", *images, "-o", out, "-m", best)
    check_predictions(out, raw, {0, 1, 2})
    for name in ("default_2d_debug", "default_3d_cascade_fullres_debug"):
        segkit(
            capsys, "predict", *images, "-o", tmp_path / name, "-m", models / name,
            "--save-probabilities", "--no-tta",
        )  # fmt: skip
        check_predictions(tmp_path / name, raw, {0, 1, 2})
    folders = [tmp_path / name for name in names[:2]]
    segkit(capsys, "ensemble", "-i", *folders, "-o", tmp_path / "both")
    check_predictions(tmp_path / "both", raw, {0, 1, 2})
    rules, json_file = tmp_path / "rules.json", raw / "dataset.json"
    given = ("-p", tmp_path / "both", "-r", raw / "labelsTr", "-d", json_file, "-o", rules)
    segkit(capsys, "postprocess", "--fit", *given)
    segkit(
        capsys, "postprocess", "-i", tmp_path / "both", "-o", tmp_path / "done", "--rules", rules
    )
    check_predictions(tmp_path / "done", raw, {0, 1, 2})


def test_region_model(hippocampus, tmp_path, capsys):
    raw = subset(hippocampus, tmp_path / "Dataset004_Regions", **REGIONS)
    work = ("-w", tmp_path / "work")
    segkit(capsys, "run", raw, *work, "-c", "3d_fullres", *DEBUG, *TINY)
    told = segkit(capsys, "find_best", raw, *work, "--device", "cpu", "-j", 1)
    assert "whole" in told.out
    best = tmp_path / "work" / raw.name / "best"
    images = ("-i", raw / "imagesTr", "--device", "cpu")
    segkit(capsys, "predict", *images, "-o", tmp_path / "out", "-m", best)
    check_predictions(tmp_path / "out", raw, {0, 1, 2})
    segkit(capsys, "postprocess", "-i", tmp_path / "out", "-o", tmp_path / "done", "--rules", best)
    check_predictions(tmp_path / "done", raw, {0, 1, 2})
