"""DICOM series as volumes, and what is no evenly spaced stack."""

import numpy as np
import pytest
from dicom_files import write_series
from tiny_dataset import describe, write_itk

from segkit.dataset.cases import images_to_predict
from segkit.dataset.description import load_description
from segkit.dataset.image_io import read_header, read_image
from segkit.errors import UserError

ARRAY = np.arange(4 * 5 * 6).reshape(4, 5, 6) + 1000
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


@pytest.mark.parametrize("directions", [(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), CORONAL])
def test_a_series_is_read_in_the_order_of_its_slices(tmp_path, directions):
    volume = read_image([write_series(tmp_path / "s", ARRAY, directions=directions)])
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], ARRAY - 1024.0)
    assert volume.geometry.spacing_mm == (3.0, 0.5, 0.75)
    assert volume.geometry.origin == (10.0, 10.0, 10.0)
    columns = np.reshape(volume.geometry.direction, (3, 3)).T
    np.testing.assert_allclose(columns[:2].ravel(), directions, atol=1e-12)


def test_the_header_says_what_will_be_read(tmp_path):
    header = read_header(write_series(tmp_path / "s", ARRAY))
    assert (header.channels, header.shape) == (1, ARRAY.shape)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 3, 9, 12], "between number 2 and 3"),
        ([0, 0, 3, 3], "not evenly spaced"),
        ([0, 0, 0, 0], "not evenly spaced"),
    ],
)
def test_slices_that_are_no_stack_are_refused(tmp_path, positions, message):
    folder = write_series(tmp_path / "s", ARRAY, positions=positions)
    with pytest.raises(UserError, match=message):
        read_image([folder])


def test_two_series_in_a_folder_are_refused(tmp_path):
    write_series(tmp_path / "s", ARRAY, name="a")
    for path in write_series(tmp_path / "other", ARRAY, name="b").iterdir():
        path.rename(tmp_path / "s" / f"b{path.name}")
    with pytest.raises(UserError, match="holds 2 DICOM series"):
        read_image([tmp_path / "s"])


@pytest.mark.parametrize("kept", [600, -20])
def test_damage_is_told(tmp_path, kept):
    folder = write_series(tmp_path / "s", ARRAY)
    damaged = folder / "021.dcm"  # the last slice, so that no other tells
    damaged.write_bytes(damaged.read_bytes()[:kept])
    with pytest.raises(UserError) as caught:
        read_image([folder])
    assert str(folder) in str(caught.value.where)


@pytest.fixture
def description(tmp_path):
    (tmp_path / "d").mkdir()
    describe(tmp_path / "d", channel_names={"0": "CT"})
    return load_description(tmp_path / "d")


def ids(cases):
    return {case.id: tuple(path.name for path in case.images) for case in cases}


def test_folders_of_series_are_cases(tmp_path, description):
    for name in ("patient_0007", "b_0000"):
        write_series(tmp_path / "in" / "day1" / name, ARRAY, name=name)
    found = images_to_predict([tmp_path / "in"], description)
    assert ids(found) == {"b": ("b_0000",), "patient_0007": ("patient_0007",)}
    alone = images_to_predict([tmp_path / "in" / "day1" / "b_0000"], description)
    assert ids(alone) == {"b": ("b_0000",)}


def test_channels_are_folders_too(tmp_path):
    (tmp_path / "d").mkdir()
    describe(tmp_path / "d", channel_names={"0": "T1", "1": "T2"})
    two = load_description(tmp_path / "d")
    for name in ("a_0000", "a_0001", "b_0000"):
        write_series(tmp_path / "in" / name, ARRAY, name=name)
    with pytest.raises(UserError, match=r"channel 1 \(T2\) is missing"):
        images_to_predict([tmp_path / "in"], two)
    found = images_to_predict([tmp_path / "in" / "a_0000", tmp_path / "in" / "a_0001"], two)
    assert ids(found) == {"a": ("a_0000", "a_0001")}


def test_images_come_before_series_below(tmp_path, description):
    write_itk(tmp_path / "in" / "a_0000.nii.gz", ARRAY.astype(np.float32))
    write_series(tmp_path / "in" / "below", ARRAY)
    assert ids(images_to_predict([tmp_path / "in"], description)) == {"a": ("a_0000.nii.gz",)}


def test_a_folder_of_neither_is_refused(tmp_path, description):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"nii\.gz"):
        images_to_predict([tmp_path / "in"], description)
