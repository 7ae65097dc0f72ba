"""DICOM series in, label maps and DICOM Segmentations out, by the command line."""

import numpy as np
import pydicom
import pytest
from dicom_files import write_series
from tiny import tiny_configuration, tiny_plan, write_model

from segkit.cli.main import main
from segkit.dataset.image_io import read_image, read_labels
from segkit.evaluation.postprocessing import (
    RULES_FILE,
    Postprocessing,
    Rule,
    save_postprocessing,
)
from segkit.inference.model import load_model

ARRAY = np.random.default_rng(0).integers(900, 1200, (6, 9, 10))


@pytest.fixture
def model(tmp_path):
    plan = tiny_plan(tiny_configuration(stages=2), orientation="LPS")
    return write_model(tmp_path / "model", plan)


def predict(tmp_path, model, source, out, *options):
    arguments = ["-i", source, "-o", tmp_path / out, "-m", model, "--device", "cpu", *options]
    return main(["predict", *map(str, arguments)])


def test_a_series_is_predicted_as_its_nifti_is(tmp_path, model):
    write_series(tmp_path / "in" / "p1", ARRAY, name="p1")
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "nifti")]) == 0
    assert predict(tmp_path, model, tmp_path / "in", "a", "--dicom-seg") == 0
    assert predict(tmp_path, model, tmp_path / "nifti", "b") == 0
    ours, theirs = (read_labels(tmp_path / out / "p1.nii.gz") for out in "ab")
    np.testing.assert_array_equal(ours.array, theirs.array)
    assert ours.geometry == theirs.geometry == read_image([tmp_path / "in" / "p1"]).geometry
    data = pydicom.dcmread(tmp_path / "a" / "p1.dcm")
    voxels = [int(ours.array.max() > 0) and int((ours.array == value).sum()) for value in (1, 2)]
    assert int(data.pixel_array.sum()) == sum(voxels) > 0


def test_what_is_predicted_already_is_kept(tmp_path, model, caplog):
    write_series(tmp_path / "in" / "p1", ARRAY, name="p1")
    assert predict(tmp_path, model, tmp_path / "in", "a") == 0
    before = (tmp_path / "a" / "p1.nii.gz").stat().st_mtime_ns
    assert predict(tmp_path, model, tmp_path / "in", "a", "--continue") == 0
    assert (tmp_path / "a" / "p1.nii.gz").stat().st_mtime_ns == before
    assert predict(tmp_path, model, tmp_path / "in", "a", "--continue", "--dicom-seg") == 0
    assert (tmp_path / "a" / "p1.dcm").exists()


def test_a_case_in_which_nothing_is_found_is_done(tmp_path, model, capsys):
    source, out = tmp_path / "in", tmp_path / "a"
    write_series(source / "p1", ARRAY, name="p1")
    rule = Rule(operation="remove_small", target=None, min_mm3=1e9)
    rules = Postprocessing(rules=(rule,), dataset=load_model(model).description.content)
    save_postprocessing(model / RULES_FILE, rules, made_from="")
    out.mkdir()
    (out / "p1.dcm").write_bytes(b"of an earlier model")
    assert predict(tmp_path, model, source, "a", "--dicom-seg") == 0
    assert "p1: nothing was found, so there is no p1.dcm" in capsys.readouterr().err
    assert not read_labels(out / "p1.nii.gz").array.any()
    assert not (out / "p1.dcm").exists()
    assert predict(tmp_path, model, source, "a", "--dicom-seg", "--continue") == 0
    assert "1 of 1 cases are predicted already" in capsys.readouterr().err
    (out / "p1.nii.gz").write_bytes(b"damaged")
    assert predict(tmp_path, model, source, "a", "--dicom-seg", "--continue") == 0
    assert not read_labels(out / "p1.nii.gz").array.any()


def test_other_images_have_no_dicom_segmentation(tmp_path, model, capsys):
    write_series(tmp_path / "in" / "p1", ARRAY, name="p1")
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "nifti")]) == 0
    assert predict(tmp_path, model, tmp_path / "nifti", "b", "--dicom-seg") == 1
    assert "needs a DICOM series" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
