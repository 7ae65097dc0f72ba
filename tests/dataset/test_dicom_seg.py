"""DICOM Segmentation objects: what other software finds in them."""

import builtins

import numpy as np
import pydicom
import pytest
from dicom_files import write_series

from segkit.dataset.dicom_seg import has_segments, write_dicom_seg
from segkit.dataset.image_io import read_image
from segkit.dataset.labels import LabelSchema
from segkit.errors import UserError

ARRAY = np.full((4, 5, 6), 1000)
CLASSES = LabelSchema.from_description({"background": 0, "liver": 3, "tumour": 7, "none": 9}, {})
STRUCTURES = LabelSchema.from_description(
    {"background": 0, "muscle": 1, "psoas": 2}, {"label_encoding": "multilabel"}
)


def segments(path):
    """Return label -> {z of the patient: mask} of a segmentation object."""
    data = pydicom.dcmread(path)
    names = {one.SegmentNumber: one.SegmentLabel for one in data.SegmentSequence}
    found = {name: {} for name in names.values()}
    for frame, pixels in zip(
        data.PerFrameFunctionalGroupsSequence, data.pixel_array.astype(bool), strict=True
    ):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        z = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        found[names[number]][z] = pixels
    return found


def test_every_class_found_is_a_segment_in_its_place(tmp_path):
    series = write_series(tmp_path / "s", ARRAY)
    indices = np.zeros((1, 4, 5, 6), np.int16)
    indices[0, 1, 2, 3], indices[0, 3, :2] = 1, 2
    write_dicom_seg(tmp_path / "out.dcm", indices, CLASSES, series)
    origin = read_image([series]).geometry.origin[2]
    found = segments(tmp_path / "out.dcm")
    assert found.keys() == {"liver", "tumour"}
    assert list(found["liver"]) == [origin + 3.0]
    np.testing.assert_array_equal(found["liver"][origin + 3.0], indices[0, 1] == 1)
    np.testing.assert_array_equal(found["tumour"][origin + 9.0], indices[0, 3] == 2)


def test_structures_may_overlap(tmp_path):
    series = write_series(tmp_path / "s", ARRAY)
    indices = np.zeros((2, 4, 5, 6), np.int8)
    indices[:, 0, 1] = 1
    write_dicom_seg(tmp_path / "out.dcm", indices, STRUCTURES, series)
    found = segments(tmp_path / "out.dcm")
    for name in ("muscle", "psoas"):
        np.testing.assert_array_equal(found[name][10.0], indices[0, 0] == 1)


def test_it_refers_to_the_patient_and_the_slices(tmp_path):
    series = write_series(tmp_path / "s", ARRAY)
    write_dicom_seg(tmp_path / "out.dcm", np.ones((1, 4, 5, 6), np.int16), CLASSES, series)
    data, source = pydicom.dcmread(tmp_path / "out.dcm"), pydicom.dcmread(next(series.iterdir()))
    assert data.PatientID == source.PatientID
    assert data.FrameOfReferenceUID == source.FrameOfReferenceUID
    referenced = data.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    assert len(referenced.ReferencedInstanceSequence) == 4


def test_where_nothing_is_found_no_file_is_left(tmp_path):
    series = write_series(tmp_path / "s", ARRAY)
    found, nothing = (np.full((1, 4, 5, 6), value, np.int16) for value in (1, 0))
    for indices, written in ((found, True), (nothing, False)):
        assert has_segments(indices, CLASSES) == written
        assert write_dicom_seg(tmp_path / "o.dcm", indices, CLASSES, series) == written
        assert (tmp_path / "o.dcm").exists() == written


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "highdicom":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match="highdicom is not installed"):
        write_dicom_seg(tmp_path / "o.dcm", np.ones((1, 4, 5, 6), np.int16), CLASSES, tmp_path)
