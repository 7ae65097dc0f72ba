"""Every shared real dataset goes through all commands, and comes back on its own grid."""

import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

DATASETS = [
    ("Dataset110_BraTS2015", "dataset.json", "3d_fullres"),
    ("Dataset110_BraTS2015", "dataset_regions.json", "2d"),
    ("Dataset132_SpleenCropMSD", "dataset.json", "3d_fullres"),
    ("Dataset150_SpinalCordMixed", "dataset.json", "3d_fullres"),
    ("Dataset151_SpinalCordGM", "dataset.json", "2d"),
    ("Dataset123_AxonMyelin", "dataset.json", "2d"),
    ("Dataset130_TotalSegCT", "dataset.json", "2d"),
]


def segkit(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "segkit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done


def smallest_patch(plan, configuration):
    """Twice the product of the strides: two voxels an axis at the bottleneck."""
    strides = plan["configurations"][configuration]["network"]["strides"]
    return (2 * np.prod(strides, axis=0)).tolist()


def check_grid(image_path, labels_path):
    """Compare size, spacing, origin and direction, as both libraries see them."""
    image, labels = sitk.ReadImage(str(image_path)), sitk.ReadImage(str(labels_path))
    assert labels.GetSize() == image.GetSize()
    assert labels.GetSpacing() == image.GetSpacing()
    assert labels.GetOrigin() == image.GetOrigin()
    assert labels.GetDirection() == image.GetDirection()
    if image_path.name.endswith(".nii.gz"):
        ours, theirs = nibabel.load(labels_path), nibabel.load(image_path)
        assert ours.shape == theirs.shape
        assert np.allclose(ours.affine, theirs.affine, rtol=0, atol=1e-5)
        assert ours.get_data_dtype() == np.uint8


@pytest.mark.parametrize(("name", "description", "configuration"), DATASETS)
def test_all_commands(shared_data, tmp_path, name, description, configuration):
    raw, work = shared_data(name), tmp_path / "work"
    dataset = raw / description
    segkit("validate", dataset)
    segkit("plan_and_preprocess", dataset, "-w", work, "-c", configuration)
    plan = json.loads(next(work.glob("*/plans/default.json")).read_text())
    patch = smallest_patch(plan, configuration)
    segkit(
        *("train", dataset, configuration, "-w", work, "--recipe", "debug", "--fold", "all"),
        *("--set", f"sampling.patch_size={patch}", "final_validation=false"),
    )
    first = sorted((raw / "labelsTr").iterdir())[0]
    ending = json.loads(dataset.read_text())["file_ending"]
    case = first.name.removesuffix(ending)
    images = sorted((raw / "imagesTr").glob(f"{case}_????{ending}"))
    segkit(
        *("predict", "-i", *images, "-o", tmp_path / "out", "-d", dataset, "-c", configuration),
        *("-w", work, "--no-tta", "--step", 1),
    )
    check_grid(images[0], tmp_path / "out" / first.name)
    segkit("evaluate", "-p", tmp_path / "out", "-r", raw / "labelsTr", "-d", dataset)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["cases"]) == 1
    assert bool(summary["regions"]) == has_regions(dataset)


def has_regions(dataset):
    labels = json.loads(dataset.read_text())["labels"]
    return any(isinstance(value, list) and len(value) > 1 for value in labels.values())
