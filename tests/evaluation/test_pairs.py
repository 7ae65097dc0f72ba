import json
import logging

import numpy as np
import pytest

from segkit.dataset.description import load_description
from segkit.dataset.image_io import write_labels
from segkit.dataset.label_files import label_path, write_label_map
from segkit.errors import UserError
from segkit.evaluation.pairs import find_label_map, own_masks, pair_files
from segkit.evaluation.summary import evaluate_folders
from segkit.types import Geometry, Volume

GEOMETRY = Geometry(spacing_mm=(3.0, 1.0, 2.0))
NAMES = ("whole", "front", "back")
REF = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
PRED = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
"""A row a structure."""


@pytest.fixture
def describe(tmp_path):
    """Return a function that writes dataset.json and reads it back."""

    def write(**keys):
        values = {name: bit + 1 for bit, name in enumerate(NAMES)}
        content = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, **values},
            "label_encoding": "multilabel",
            "numTraining": 1,
            "file_ending": ".nii.gz",
            **keys,
        }
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        return load_description(tmp_path)

    return write


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, logger="segkit")
    return lambda: [record.getMessage() for record in caplog.records]


def write(folder, rows, layout, description, names=NAMES):
    """Write the structures of the case x in one of the layouts."""
    folder.mkdir(exist_ok=True)
    labels = Volume(array=rows[:, None, None].astype(np.int16), geometry=GEOMETRY)
    path = label_path(folder, "x", ".nii.gz", layout)
    write_label_map(path, labels, description.labels, layout, ".nii.gz")
    for name in set(NAMES) - set(names) if layout == "folder" else ():
        (path / f"{name}.nii.gz").unlink()


def write_mask(folder, row):
    folder.mkdir()
    write_labels(folder / "x.nii.gz", np.array(row, dtype=np.uint8).reshape(1, 1, -1), GEOMETRY)


@pytest.mark.parametrize("ref_layout", ["integers", "masks", "folder"])
@pytest.mark.parametrize("pred_layout", ["integers", "masks", "folder"])
def test_layouts_may_differ(describe, tmp_path, ref_layout, pred_layout):
    description = describe()
    write(tmp_path / "ref", REF, ref_layout, description)
    write(tmp_path / "pred", PRED, pred_layout, description)
    summary = evaluate_folders(tmp_path / "pred", tmp_path / "ref", description, jobs=1)
    dice = {name: table["dice"].mean for name, table in summary.labels.items()}
    assert dice == {"whole": 0.8, "front": pytest.approx(2 / 3), "back": 0}
    assert summary.regions == {}
    assert summary.foreground_mean["dice"] == pytest.approx(np.mean(list(dice.values())))


@pytest.mark.parametrize("layout", ["integers", "folder"])
def test_structures_declared_unannotated_are_left_out(describe, tmp_path, layout):
    description = describe(unannotated={"x": ["back"]})
    # In a folder there need not even be a file of it.
    write(tmp_path / "ref", REF, layout, description, names=("whole", "front"))
    write(tmp_path / "pred", PRED, layout, description)
    summary = evaluate_folders(tmp_path / "pred", tmp_path / "ref", description, jobs=1)
    back = summary.labels["back"]
    assert set(summary.cases[0].labels["back"].values()) == {None}
    assert summary.cases[0].unannotated == ("back",)
    assert summary.unannotated("back") == 1
    assert (back["dice"].n, back["dice"].undefined, back["volume_pred_ml"].mean) == (0, 1, None)
    assert summary.foreground_mean["dice"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_made_from_follows_the_files_of_a_folder(describe, tmp_path):
    description = describe()
    write(tmp_path / "ref", REF, "integers", description)
    write(tmp_path / "pred", PRED, "folder", description)

    def made_from():
        return evaluate_folders(tmp_path / "pred", tmp_path / "ref", description, jobs=1).made_from

    before = made_from()
    assert made_from() == before
    file = tmp_path / "pred/x/back.nii.gz"
    file.write_bytes((tmp_path / "pred/x/front.nii.gz").read_bytes())
    assert made_from() != before


def test_a_structure_without_a_file_is_refused(describe, tmp_path):
    description = describe()
    write(tmp_path / "ref", REF, "integers", description)
    write(tmp_path / "pred", PRED, "folder", description, names=("whole", "front"))
    with pytest.raises(UserError, match="no file for back"):
        evaluate_folders(tmp_path / "pred", tmp_path / "ref", description, jobs=1)


def test_folders_of_other_things_are_no_cases(describe, tmp_path):
    description = describe()
    write(tmp_path / "ref", REF, "integers", description)
    write(tmp_path / "pred", PRED, "folder", description)
    for name in ("report", ".x"):
        (tmp_path / "pred" / name).mkdir()
        (tmp_path / "pred" / name / "summary.json").write_text("{}")
    pairs, _ = pair_files([tmp_path / "pred"], tmp_path / "ref", description)
    assert [pair.case for pair in pairs] == ["x"]


def test_a_case_that_lies_there_twice_is_refused(describe, tmp_path):
    description = describe()
    for layout in ("integers", "folder"):
        write(tmp_path / "pred", PRED, layout, description)
    with pytest.raises(UserError, match="as a file and as a folder: x"):
        pair_files([tmp_path / "pred"], tmp_path / "pred", description)
    with pytest.raises(UserError, match="as a file and as a folder: x"):
        find_label_map(tmp_path / "pred", "x", description)
    (tmp_path / "pred/x.nii.gz").unlink()
    assert find_label_map(tmp_path / "pred", "x", description) == tmp_path / "pred/x"


def test_exclusive_labels_are_files_only(describe, tmp_path):
    structures = describe()
    description = describe(label_encoding=None)
    write(tmp_path / "pred", PRED, "folder", structures)
    assert find_label_map(tmp_path / "pred", "x", description) == tmp_path / "pred/x.nii.gz"
    with pytest.raises(UserError, match="no prediction"):
        pair_files([tmp_path / "pred"], tmp_path / "pred", description)


def test_masks_of_the_dataset_count_for_its_own_labels(describe, tmp_path, messages):
    description = describe()
    write(tmp_path / "labelsTr", REF, "integers", description)
    write(tmp_path / "pred", PRED, "integers", description)
    write_mask(tmp_path / "masksTr", [1, 1, 0, 5])
    summary = evaluate_folders(tmp_path / "pred", tmp_path / "labelsTr", description, jobs=1)
    assert summary.labels["whole"]["dice"].mean == 1
    assert any("1 of 1 cases are evaluated only inside their mask" in m for m in messages())
    (tmp_path / "labelsTr").rename(tmp_path / "elsewhere")
    assert own_masks(tmp_path / "elsewhere", description) == {}
    whole = evaluate_folders(tmp_path / "pred", tmp_path / "elsewhere", description, jobs=1)
    assert whole.labels["whole"]["dice"].mean == 0.8
    assert whole.made_from != summary.made_from
    again = evaluate_folders(
        tmp_path / "pred",
        tmp_path / "elsewhere",
        description,
        masks_dir=tmp_path / "masksTr",
        jobs=1,
    )
    assert again.labels == summary.labels


def test_cases_without_a_mask_of_the_dataset_are_evaluated_whole(describe, tmp_path):
    description = describe()
    write(tmp_path / "labelsTr", REF, "integers", description)
    write(tmp_path / "pred", PRED, "integers", description)
    write_mask(tmp_path / "masksTr", [1, 1, 0, 5])
    (tmp_path / "masksTr/x.nii.gz").rename(tmp_path / "masksTr/y.nii.gz")
    summary = evaluate_folders(tmp_path / "pred", tmp_path / "labelsTr", description, jobs=1)
    assert summary.labels["whole"]["dice"].mean == 0.8


def test_masks_of_other_cases_are_refused(describe, tmp_path):
    description = describe()
    write(tmp_path / "pred", PRED, "integers", description)
    write_mask(tmp_path / "masks", [1, 1, 0, 5])
    (tmp_path / "masks/x.nii.gz").rename(tmp_path / "masks/y.nii.gz")
    with pytest.raises(UserError, match="no mask belongs to a predicted case"):
        pair_files(
            [tmp_path / "pred"], tmp_path / "pred", description, masks_dir=tmp_path / "masks"
        )


@pytest.mark.parametrize("listed", [True, False])
def test_masks_of_an_explicit_list_are_those_of_training(describe, tmp_path, messages, listed):
    write_mask(tmp_path / "masksTr", [1, 1, 0, 5])
    (tmp_path / "masksTr" / "x.nii.gz").rename(tmp_path / "masksTr" / "y.nii.gz")
    entry = {"images": ["image.nii.gz"], "label": "labelsTr/x.nii.gz"}
    mask = {"mask": "masksTr/y.nii.gz"} if listed else {}
    description = describe(dataset={"x": {**entry, **mask}})
    write(tmp_path / "labelsTr", REF, "integers", description)
    ((pair,), _) = pair_files([tmp_path / "labelsTr"], tmp_path / "labelsTr", description)
    assert pair.mask == (tmp_path / "masksTr" / "y.nii.gz" if listed else None)
    assert any("SK-F027" in message for message in messages()) == (not listed)
