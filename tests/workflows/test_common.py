"""A plan that was made from something else is told, never used."""

import json
import shlex

import nibabel as nib
import numpy as np
import pytest

from segkit import options as opt
from segkit.errors import UserError
from segkit.files import read_json, write_json
from segkit.workflows import prepare
from segkit.workflows.common import open_dataset, read_plan

CASES = ("a", "b", "c", "d", "e")
CONTENT = {
    "channel_names": {"0": "MR"},
    "labels": {"background": 0, "one": 1, "two": 2},
    "numTraining": len(CASES),
    "file_ending": ".nii.gz",
}


@pytest.fixture
def toy(tmp_path):
    folder = tmp_path / "raw data" / "Dataset007_Toy"
    folder.mkdir(parents=True)
    for seed, case in enumerate(CASES):
        put_case(folder, case, seed)
    describe(folder)
    return folder


def put_case(folder, case, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 10, (8, 9, 10)).astype(np.float32)
    labels = rng.integers(0, 3, image.shape).astype(np.uint8)
    for name, array in [(f"imagesTr/{case}_0000", image), (f"labelsTr/{case}", labels)]:
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def describe(folder, **changes):
    (folder / "dataset.json").write_text(json.dumps({**CONTENT, **changes}))


def plan(folder, planner="default"):
    work = folder.parents[1] / "work"
    prepare.plan(opt.Plan(dataset=str(folder), workdir=work, jobs=1, planner=planner))


def read(folder, planner="default"):
    options = opt.Dataset(dataset=str(folder), workdir=folder.parents[1] / "work", jobs=1)
    return read_plan(open_dataset(options), planner)


def test_a_plan_edited_by_hand_is_used(toy):
    plan(toy)
    path = toy.parents[1] / "work" / toy.name / "plans" / "default.json"
    content = read_json(path)
    content["configurations"]["2d"]["batch_size"] = 3
    write_json(path, content)
    plan(toy, "resenc_m")
    describe(toy, name="more words", release="2")
    assert read(toy).configuration("2d").batch_size == 3


def test_no_plan_yet(toy):
    with pytest.raises(UserError, match="not planned yet") as caught:
        read(toy)
    command = caught.value.fix.split("workdir: ")[1]
    assert shlex.split(command) == ["segkit", "plan_and_preprocess", str(toy)]


def test_other_files_measured_for_another_planner_make_a_plan_stale(toy):
    plan(toy)
    put_case(toy, "b", 77)
    plan(toy, "resenc_m")
    read(toy, "resenc_m")
    with pytest.raises(UserError, match="from other files") as caught:
        read(toy)
    assert shlex.quote(str(toy)) in caught.value.fix
    plan(toy)
    read(toy)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"label_encoding": "multilabel"}, "for other labels"),
        ({"labels": {"background": 0, "one": 2, "two": 1}}, "for other labels"),
        ({"ignore_label": 7}, "for other labels"),
        ({"channel_names": {"0": "CT"}}, "for other channel names"),
    ],
)
def test_another_description_makes_a_plan_stale(toy, changes, told):
    plan(toy)
    describe(toy, **changes)
    with pytest.raises(UserError, match=told):
        read(toy)
