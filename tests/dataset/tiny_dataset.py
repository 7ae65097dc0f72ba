"""A tiny data set on disk, and the pieces to break it with."""

import json

import numpy as np
import SimpleITK as sitk

CONTENT = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}
SHAPE = (4, 5, 6)


def write_itk(path, array, spacing=(1.0, 1.0, 2.0), origin=(0.0,) * 4, direction=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=False)
    ndim = image.GetDimension()
    image.SetSpacing((*spacing, 1.0)[:ndim])
    image.SetOrigin(origin[:ndim])
    if direction is not None:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


def write_dataset(folder):
    """Write three good cases, a, b and c, of shape (4, 5, 6)."""
    rng = np.random.default_rng(0)
    for case in "abc":
        image = rng.normal(size=SHAPE).astype(np.float32)
        labels = np.zeros(SHAPE, np.uint8)
        labels[1, 2, 3], labels[2, 2, 3] = 1, 2
        put_image(folder, case, image)
        put_labels(folder, case, labels)
    describe(folder)
    return folder


def describe(folder, **changes):
    """Write dataset.json with some keys changed; None deletes one."""
    content = {**CONTENT, **changes}
    content = {key: value for key, value in content.items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(content))


def noise(shape=SHAPE, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def labels_of(*values, dtype=np.uint8):
    """Return a label map whose first voxels have these values."""
    array = np.zeros(SHAPE, dtype)
    array.flat[: len(values)] = values
    return array


def put_image(folder, case, array, number=0, **geometry):
    return write_itk(folder / "imagesTr" / f"{case}_{number:04d}.nii.gz", array, **geometry)


def put_labels(folder, case, array, **geometry):
    return write_itk(folder / "labelsTr" / f"{case}.nii.gz", array, **geometry)


def put_mask(folder, case, array, **geometry):
    return write_itk(folder / "masksTr" / f"{case}.nii.gz", array, **geometry)


def put_label_folder(folder, case, **masks):
    """Write a file a structure in place of the label file."""
    (folder / "labelsTr" / f"{case}.nii.gz").unlink(missing_ok=True)
    for name, mask in masks.items():
        write_itk(folder / "labelsTr" / case / f"{name}.nii.gz", mask)
