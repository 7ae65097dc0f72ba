"""The datasets that stand for other kinds of labels say the same thing in other words."""

import json

import nibabel as nib
import numpy as np
import pytest
from label_variants import IGNORE, VARIANTS, bitmask, derive, painted

from segkit.dataset.validation import validate_dataset


@pytest.fixture
def plain(tmp_path):
    folder = tmp_path / "Dataset001_Tiny"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    rng = np.random.default_rng(0)
    for case in ("a", "b"):
        labels = rng.integers(0, 3, (4, 5, 10), dtype=np.uint8)
        image = rng.normal(size=labels.shape).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / f"{case}_0000.nii.gz")
        nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / "labelsTr" / f"{case}.nii.gz")
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 2}
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_a_valid_dataset(plain, tmp_path, variant):
    derive(plain, tmp_path / variant, variant)
    report = validate_dataset(tmp_path / variant, jobs=1)
    assert report.ok, str(report)
    assert report.cases == 2


def test_seven_of_ten_slices_are_painted_and_the_others_stay():
    labels = np.random.default_rng(1).integers(0, 3, (4, 5, 10), dtype=np.uint8)
    result = painted(labels, np.random.default_rng(0))
    ignored = (result == IGNORE).all(axis=(0, 1))
    assert ignored.sum() == 7
    assert (result[..., ~ignored] == labels[..., ~ignored]).all()


def test_bits_name_the_whole_and_its_part():
    assert bitmask(np.array([0, 1, 2])).tolist() == [0, 1 + 2, 1 + 4]
