"""A list of files that stay where they are."""

import json

import numpy as np
import pytest
from tiny_dataset import SHAPE, labels_of, noise, write_itk

from segkit.cli.main import main
from segkit.dataset.cases import training_cases
from segkit.dataset.conversion.manifest import convert_manifest
from segkit.dataset.description import load_description
from segkit.dataset.image_io import read_image
from segkit.errors import UserError


@pytest.fixture
def files(tmp_path):
    for case in "ab":
        write_itk(tmp_path / "scans" / f"{case}_t1.nii.gz", noise(seed=1))
        write_itk(tmp_path / "scans" / f"{case}_t2.nii.gz", noise(seed=2))
        write_itk(tmp_path / "drawn" / f"{case}.nii.gz", labels_of(1, 2))
    return tmp_path


CSV = """case;image_T1;image_T2;label;mask
first;scans/a_t1.nii.gz;scans/a_t2.nii.gz;drawn/a.nii.gz;
second;scans/b_t1.nii.gz;scans/b_t2.nii.gz;drawn/b.nii.gz;drawn/b.nii.gz
third;scans/b_t1.nii.gz;scans/b_t2.nii.gz;;
"""


def test_a_table_becomes_a_dataset(files, capsys):
    (files / "list.csv").write_text(CSV)
    arguments = ["convert", str(files / "list.csv"), "-o", str(files / "out"), "--labels"]
    assert main([*arguments, "background=0", "liver=1", "tumour=2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "not for training, without a label: third",
        f"dataset.json written to {files / 'out'}; the files it lists stay where they are",
        f"now: segkit validate {files / 'out'}",
    ]
    assert [path.name for path in (files / "out").iterdir()] == ["dataset.json"]
    description = load_description(files / "out")
    assert description.channel_names == ("T1", "T2")
    first, second = training_cases(description)
    np.testing.assert_array_equal(read_image(first.images).array, [noise(seed=1), noise(seed=2)])
    assert first.mask is None
    assert second.mask == files / "drawn" / "b.nii.gz"
    assert main(["validate", str(files / "out")]) == 0


@pytest.mark.parametrize(
    ("column", "given", "name"),
    [
        ("image_T1", (), "T1"),
        ("image", (), "image"),
        ("image_0", (), "image"),
        ("image_T1", ("FLAIR",), "FLAIR"),
    ],
)
def test_a_single_channel_is_called_as_its_column(files, column, given, name):
    (files / "list.csv").write_text(f"case,{column},label\na,scans/a_t1.nii.gz,drawn/a.nii.gz\n")
    content = convert_manifest(files / "list.csv", channels=given).content
    assert content["channel_names"] == {"0": name}


def test_json_lists_and_values_that_are_found(files):
    images = ["scans/a_t1.nii.gz", "scans/a_t2.nii.gz"]
    rows = [{"id": "x", "image": images, "label": "drawn/a.nii.gz"}]
    (files / "list.json").write_text(json.dumps({"cases": rows}))
    content = convert_manifest(files / "list.json").content
    assert content["channel_names"] == {"0": "channel_0", "1": "channel_1"}
    assert content["labels"] == {"background": 0, "label_1": 1, "label_2": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no case"),
        ("case,image,labels\n1,2,3\n", "unknown column 'labels'"),
        ("case,image,label\n", "holds no case"),
        ("case,image,image,label\na,b,c,d\n", "two columns are called 'image'"),
        ("case,image,label\na,b,c,d\n", "row 2 has 4 values, the header names 3"),
        ("image,label,case\nscans/a_t1.nii.gz\n", "'' cannot name a case"),
        ("case,image\na," + "x" * 200_000, "no CSV: field larger"),
        ("case,label\n1,2\n", "columns are case, label"),
        ("case,image,label\na,scans/x.nii.gz,drawn/a.nii.gz\n", r"there is no scans/x\.nii\.gz"),
        ("case,image,label\na/b,scans/a_t1.nii.gz,\n", "cannot name a case"),
        ("case,image,label\na,scans/a_t1.nii.gz,\n", "no case has a label"),
        ("case,image,label\na,,drawn/a.nii.gz\n", "has no image"),
        (
            "case,image,label\n" + "a,scans/a_t1.nii.gz,drawn/a.nii.gz\n" * 2,
            "'a' is listed twice",
        ),
    ],
)
def test_refusals(files, text, message):
    (files / "list.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        convert_manifest(files / "list.csv")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"image": "scans/a_t1.nii.gz"}, "'' cannot name a case"),
        ({"case": None, "image": "scans/a_t1.nii.gz"}, "'' cannot name a case"),
        ({"case": "b", "label": "drawn/a.nii.gz"}, "has no image"),
        ({"case": "b", "image": "scans/a_t1.nii.gz", "lable": "x"}, "unknown column 'lable'"),
    ],
)
def test_later_entries_of_json_are_checked_too(files, second, message):
    first = {"case": "a", "image": "scans/a_t1.nii.gz", "label": "drawn/a.nii.gz"}
    (files / "list.json").write_text(json.dumps([first, second]))
    with pytest.raises(UserError, match=message):
        convert_manifest(files / "list.json")


def test_labels_that_would_have_to_change_are_refused(files):
    write_itk(files / "drawn" / "a.nii.gz", np.full(SHAPE, 3, np.uint8))
    line = "case,image,label\na,scans/a_t1.nii.gz,drawn/a.nii.gz\n"
    (files / "list.csv").write_text(line)
    with pytest.raises(UserError, match="no mask has 0"):
        convert_manifest(files / "list.csv")
