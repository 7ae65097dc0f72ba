"""A small data set on disk, and the pieces to break it with."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

CONTENT = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}


def write_itk(path, array, spacing=(1.0, 1.0, 2.0), origin=(0.0,) * 4, direction=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=False)
    ndim = image.GetDimension()
    image.SetSpacing(spacing[:ndim])
    image.SetOrigin(origin[:ndim])
    if direction is not None:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def itk_file():
    return write_itk


@pytest.fixture
def content():
    return json.loads(json.dumps(CONTENT))


@pytest.fixture
def dataset(tmp_path, content):
    """Return a folder with three good cases, a, b and c, of shape (4, 5, 6)."""
    folder = tmp_path / "Dataset007_Toy"
    rng = np.random.default_rng(0)
    for case in "abc":
        image = rng.normal(size=(4, 5, 6)).astype(np.float32)
        labels = np.zeros((4, 5, 6), np.uint8)
        labels[1, 2, 3], labels[2, 2, 3] = 1, 2
        write_itk(folder / "imagesTr" / f"{case}_0000.nii.gz", image)
        write_itk(folder / "labelsTr" / f"{case}.nii.gz", labels)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
