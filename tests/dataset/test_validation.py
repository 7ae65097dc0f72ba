import json
import os
import signal

import nibabel as nib
import numpy as np
import pytest

from segkit.dataset import validation
from segkit.dataset.cases import find_cases
from segkit.dataset.description import load_description
from segkit.dataset.problems import CODES, LABEL_CODES
from segkit.dataset.validation import validate_dataset
from segkit.errors import UserError

SHAPE = (4, 5, 6)


def labels(*values):
    array = np.zeros(SHAPE, np.uint8)
    array.flat[: len(values)] = values
    return array


def only(dataset, code):
    (found,) = [p for p in validate_dataset(dataset, jobs=1).problems if p.code == code]
    return found


def codes(dataset):
    return sorted(found.code for found in validate_dataset(dataset, jobs=1).problems)


@pytest.fixture
def put(dataset, itk_file):
    """Replace the image or label file of a case."""

    def write(kind, case, array, **geometry):
        name = f"{case}_0000.nii.gz" if kind == "imagesTr" else f"{case}.nii.gz"
        return itk_file(dataset / kind / name, array, **geometry)

    return write


@pytest.fixture
def rewrite(dataset, content):
    def write(**changes):
        (dataset / "dataset.json").write_text(json.dumps({**content, **changes}))
        return dataset

    return write


def test_a_good_data_set_is_ok(dataset):
    report = validate_dataset(dataset, jobs=1)
    assert report.ok
    assert report.to_json() == {
        "dataset": "Dataset007_Toy",
        "ok": True,
        "cases": 3,
        "errors": [],
        "warnings": [],
    }
    assert str(report) == "Dataset007_Toy: 3 cases, 0 errors, 0 warnings: ready to use"


def test_worker_processes_find_the_same(dataset, put):
    put("labelsTr", "b", labels(1, 2, 7))
    assert validate_dataset(dataset, jobs=2) == validate_dataset(dataset, jobs=1)


def crash(expected, case):
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_reader_that_crashes_is_told_with_its_cases(dataset, monkeypatch):
    monkeypatch.setattr(validation, "check_case", crash)
    with pytest.raises(UserError, match=r"SIGSEGV[\s\S]*one of the cases a, b, c"):
        validate_dataset(dataset, jobs=2)


def test_many_or_large_cases_are_checked_in_processes(dataset, monkeypatch):
    description = load_description(dataset)
    monkeypatch.setattr(validation, "choose_jobs", lambda *_, items, **__: items)
    cases = find_cases(description)[0]
    assert len(cases) == 3
    assert validation._choose_jobs(None, cases, description) == 1
    assert validation._choose_jobs(None, cases * 3, description) == 9
    monkeypatch.setattr(validation, "largest_case", lambda _: 1 << 24)
    assert validation._choose_jobs(None, cases, description) == 3


def test_json_form_of_a_problem(dataset, put):
    path = put("labelsTr", "b", labels(1, 2, 7, 7))
    (error,) = validate_dataset(dataset, jobs=1).to_json()["errors"]
    assert error == {
        "code": "SK-V003",
        "severity": "error",
        "message": "undeclared values: 7 (2 voxels)",
        "where": str(path),
        "case": "b",
        "remedy": "declare them under labels, or correct the file; "
        "declared: 0 background, 1 liver, 2 tumour",
    }


def test_everything_is_found_in_one_run(dataset, put, rewrite):
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    image[0, 0, 0] = np.nan
    put("imagesTr", "a", image)
    put("labelsTr", "b", labels(1, 2)[:3])
    (dataset / "labelsTr" / "c.nii.gz").write_bytes(b"broken")
    (dataset / "labelsTr" / "d.nii.gz").write_bytes(b"alone")
    rewrite(labels={"background": 0, "liver": "1"}, colour="red")
    found = codes(dataset)
    assert found == [
        *("SK-D006", "SK-D024", "SK-F007", "SK-F010", "SK-G001", "SK-V001", "SK-V003", "SK-V003"),
    ]
    report = validate_dataset(dataset, jobs=1)
    text = str(report)
    assert text.index("Errors (6)") < text.index("Warnings (2)")
    assert 'fix: write "liver": 1' in text
    assert not report.ok


def test_v1_and_inverted_labels_do_not_stop_the_check_of_the_files(dataset, put):
    put("labelsTr", "b", labels(1, 9))
    old = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "tumour"}}
    (dataset / "dataset.json").write_text(json.dumps(old))
    assert codes(dataset) == ["SK-D005", "SK-D007", "SK-D023", "SK-V003"]


@pytest.mark.parametrize(
    "faults",
    [
        {"channel_names": ["CT"]},
        {"file_ending": "nii.gz"},
        {"labels": {"Background": 0, "liver": 1, "tumour": 2}},
        {"labels": {"background": 0, "liver": "1", "tumour": 2.0}},
    ],
)
def test_what_can_be_understood_in_one_way_does_not_hide_other_errors(
    dataset, put, rewrite, faults
):
    put("labelsTr", "b", labels(1, 9))
    rewrite(**faults)
    report = validate_dataset(dataset, jobs=1)
    assert "SK-V003" in {found.code for found in report.errors}
    assert any(found.code.startswith("SK-D") for found in report.errors)


@pytest.mark.parametrize("text", ["", "{", "null", "[]"])
def test_hopeless_json_is_a_report_too(dataset, text):
    (dataset / "dataset.json").write_text(text)
    report = validate_dataset(dataset, jobs=1)
    assert not report.ok
    assert report.cases == 0


def test_missing_json_is_a_report_too(tmp_path):
    assert codes(tmp_path) == ["SK-D001"]


def test_mask_of_0_and_255_is_recognised(dataset, put, rewrite):
    rewrite(labels={"background": 0, "liver": 1})
    for case in "abc":
        put("labelsTr", case, labels(255, 255))
    report = validate_dataset(dataset, jobs=1)
    fixes = {found.fix for found in report.problems if found.code == "SK-V003"}
    assert fixes == {
        "the mask was saved as 0 and 255: replace 255 by 1 in the label files, "
        'or declare "liver": 255'
    }


def test_255_among_classes_may_be_ignore(dataset, put):
    put("labelsTr", "a", labels(1, 2, 255))
    assert '"ignore_label": 255' in only(dataset, "SK-V003").fix


def test_declared_ignore_values_are_fine_and_unannounced_ones_are_told(dataset, put, rewrite):
    rewrite(ignore_label=[9])
    put("labelsTr", "a", labels(1, 2, 9).astype(np.int16))
    marked = np.where(labels(1, 2) == 0, -1, 1).astype(np.int16)
    put("labelsTr", "b", marked)
    found = only(dataset, "SK-V008")
    assert f"{(marked == -1).sum()} label voxels are -1" in found.message
    rewrite(ignore_label=[9, -1])
    assert codes(dataset) == []


def test_fractions_are_counted(dataset, put):
    array = labels(1, 2).astype(np.float32)
    array[3, 4, 5] = 0.5
    put("labelsTr", "a", array)
    assert only(dataset, "SK-V002").message == "fractional values: 0.5 (1 voxels)"


def test_float_labels_with_whole_values_are_fine(dataset, put):
    put("labelsTr", "a", labels(1, 2).astype(np.float32))
    assert codes(dataset) == []


def test_nan_in_labels_and_infinity_in_images(dataset, put):
    array = labels(1, 2).astype(np.float32)
    array[3, 4, 5] = np.nan
    path = put("labelsTr", "a", array)
    assert only(dataset, "SK-V001").where == str(path)
    put("labelsTr", "a", labels(1, 2))
    image = np.zeros(SHAPE, np.float64)
    image.flat[:2] = np.inf, 1e300
    put("imagesTr", "b", image)
    assert only(dataset, "SK-V001").message.startswith("2 of 120 voxels")


def test_constant_images_and_empty_labels_are_warnings(dataset, put):
    put("imagesTr", "a", np.full(SHAPE, 3, np.int16))
    put("labelsTr", "a", labels())
    report = validate_dataset(dataset, jobs=1)
    assert report.ok
    assert [found.code for found in report.warnings] == ["SK-V005", "SK-V004"]


def test_class_that_never_occurs(dataset, put):
    for case in "abc":
        put("labelsTr", case, labels(1))
    assert only(dataset, "SK-V006").message == "tumour (2) occurs in no label file"


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        ({"spacing": (1.0, 1.0, 2.0005)}, []),
        ({"spacing": (1.0, 1.0, 2.01)}, ["SK-G002"]),
        ({"origin": (0.005, 0.0, 0.0)}, []),
        ({"origin": (0.0, 0.0, 0.1)}, ["SK-G003"]),
        ({"origin": (0.0, 0.0, -0.1)}, ["SK-G003"]),
        ({"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}, ["SK-G004"]),
    ],
)
def test_label_geometry(dataset, put, geometry, expected):
    path = put("labelsTr", "b", labels(1, 2), **geometry)
    assert codes(dataset) == expected
    for found in validate_dataset(dataset, jobs=1).problems:
        assert found.where == str(path)
        assert "b_0000.nii.gz" in found.message


def test_tolerances_are_stated(dataset, put):
    put("labelsTr", "a", labels(1, 2), spacing=(1.0, 1.0, 3.0))
    put("labelsTr", "b", labels(1, 2), origin=(5.0, 0.0, 0.0))
    assert "more than 0.001 of itself" in only(dataset, "SK-G002").message
    assert "5 voxels" in only(dataset, "SK-G003").message
    assert "tolerance 0.01" in only(dataset, "SK-G003").message


def test_transposed_labels_are_recognised(dataset, put):
    put("labelsTr", "a", labels(1, 2).transpose(2, 1, 0).copy())
    assert "transpose" in only(dataset, "SK-G001").fix


def test_channels_on_different_grids(dataset, put, rewrite, itk_file):
    rewrite(channel_names={"0": "T1", "1": "T2"})
    noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    for case, depth in zip("abc", (4, 3, 4), strict=True):
        itk_file(dataset / "imagesTr" / f"{case}_0001.nii.gz", noise[:depth])
    found = only(dataset, "SK-G001")
    assert found.case == "b"
    assert found.where.endswith("b_0001.nii.gz")


def test_surplus_channels_inside_a_file(dataset):
    path = dataset / "imagesTr" / "a_0000.nii.gz"
    array = np.random.default_rng(0).normal(size=(6, 5, 4, 2)).astype(np.float32)
    nib.Nifti1Image(array, np.diag([-1.0, -1, 2, 1])).to_filename(path)
    assert "the case has 2 volumes" in only(dataset, "SK-G006").message


def test_truncated_files_are_named(dataset):
    path = dataset / "imagesTr" / "b_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    found = only(dataset, "SK-F010")
    assert (found.where, found.case) == (str(path), "b")


def test_images_without_labels_are_still_read(dataset):
    (dataset / "labelsTr" / "a.nii.gz").unlink()
    (dataset / "imagesTr" / "a_0000.nii.gz").write_bytes(b"broken")
    assert codes(dataset) == ["SK-F006", "SK-F010"]
    assert validate_dataset(dataset, jobs=1).cases == 2


def test_long_lists_are_shortened_in_the_text_only(dataset, rewrite):
    many = {"background": 0, **{f"c{i}": i for i in range(1, 41)}}
    rewrite(labels=many)
    report = validate_dataset(dataset, jobs=1)
    assert "... and 28 more" in str(report)
    assert len(report.to_json()["warnings"]) == 38


def test_mixed_orientations_are_told(shared_data):
    found = only(shared_data("Dataset150_SpinalCordMixed"), "SK-G005")
    assert "LAS 3, PSR 2, RAS 1" in found.message


@pytest.mark.parametrize("name", ["Dataset123_AxonMyelin", "Dataset151_SpinalCordGM"])
def test_real_data_sets_are_ok(shared_data, name):
    assert codes(shared_data(name)) == []


def test_what_leaves_labels_open_is_an_error_of_the_table():
    assert {CODES[code][0] for code in LABEL_CODES} == {"error"}


def test_every_code_has_a_severity_and_a_meaning():
    assert all(severity in ("error", "warning") and text for severity, text in CODES.values())
    assert len({text for _, text in CODES.values()}) == len(CODES)
