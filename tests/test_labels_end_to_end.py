"""Every encoding of labels through the real command line: what comes in comes out.

The commands run in this process, without workers: starting Python dozens of times takes longer
than the work.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from commands import read_nifti, segkit, strict, write_nifti

GRID_MM = (1.0, 1.0, 2.0)
CASES = ("a", "b", "c", "d", "e")
STRUCTURES = {"whole": 1, "front": 2, "back": 4}
TINY = ("sampling.patch_size=[8,16,16]", "sampling.batch_size=2", "iterations_per_epoch=12")
"""Enough steps to see that every channel is the target it should be."""


def make_images(folder, labels, **content):
    """Write a bright ball per case and dataset.json; returns case -> (x, y, z) bool masks."""
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[:20, :18, :10]
    masks = {}
    for case in CASES:
        radius = rng.uniform(4.0, 5.5)
        whole = (x - 10) ** 2 + (y - 9) ** 2 + (2 * (z - 5)) ** 2 < radius**2
        image = rng.normal(100, 5, whole.shape) + 60 * whole + 30 * (whole & (x < 10))
        write_nifti(folder / "imagesTr" / f"{case}_0000.nii.gz", image.astype(np.float32), GRID_MM)
        masks[case] = {"whole": whole, "front": whole & (x < 10), "back": whole & (x >= 8)}
    description = {
        "channel_names": {"0": "MR"},
        "labels": labels,
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
        **content,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return masks


def structure_dataset(folder, **content):
    labels = {"background": 0, **STRUCTURES}
    return make_images(folder, labels, label_encoding="multilabel", **content)


def train(raw, work):
    command = ("train", raw, "3d_fullres", "-w", work, "--recipe", "debug", "--device", "cpu")
    return *command, "--set", *TINY


def go_through(capsys, raw, work, *, planning=(), settings=()):
    """Plan, preprocess, train, predict the training images, evaluate; returns what was made."""
    planned = segkit(capsys, "plan_and_preprocess", raw, "-w", work, "-c", "3d_fullres", *planning)
    segkit(capsys, *train(raw, work), *settings)
    model = work / raw.name / "models" / "default_3d_fullres_debug"
    predictions = work / "predictions"
    predict = ("predict", "-i", raw / "imagesTr", "-o", predictions, "-m", model)
    segkit(capsys, *predict, "--device", "cpu")
    evaluate = ("evaluate", "-p", predictions, "-r", raw / "labelsTr", "-d", raw / "dataset.json")
    table = segkit(capsys, *evaluate, "-o", work / "evaluation")
    summary = strict(work / "evaluation" / "summary.json")
    strict(model / "fold_0" / "validation" / "summary.json")
    assert len(summary["cases"]) == len(CASES)
    return SimpleNamespace(
        told=planned.out, predictions=predictions, summary=summary, table=table.out
    )


def check_learned(statistics, *, left_out=()):
    dice = {name: found["dice"]["mean"] for name, found in statistics.items()}
    assert all(value > 0.5 for name, value in dice.items() if name not in left_out), dice


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "Dataset042_Tiny"


def test_bitmasks(raw, tmp_path, capsys):
    masks = structure_dataset(raw)
    for case, found in masks.items():
        label = sum(bit * found[name] for name, bit in STRUCTURES.items())
        write_nifti(raw / "labelsTr" / f"{case}.nii.gz", label.astype(np.uint8), GRID_MM)
    made = go_through(capsys, raw, tmp_path / "work")
    check_learned(made.summary["labels"])
    assert "structure whole: in 5 of 5 case(s)" in made.told
    assert "combination whole+front+back: in 5 case(s)" in made.told
    assert made.summary["labels"].keys() == STRUCTURES.keys()
    for case in CASES:
        predicted = read_nifti(made.predictions / f"{case}.nii.gz")
        assert predicted.shape == masks[case]["whole"].shape
        assert predicted.dtype == np.uint8
        assert predicted.max() <= 7


def test_masks_in_one_file_without_a_rare_structure(raw, tmp_path, capsys):
    masks = structure_dataset(raw)
    for case, found in masks.items():
        back = found["back"] if case == "c" else 0 * found["back"]
        stacked = np.stack([found["whole"], found["front"], back], axis=-1)
        write_nifti(raw / "labelsTr" / f"{case}.nii.gz", stacked.astype(np.uint8), GRID_MM)
    work = tmp_path / "work"
    planning = ("--min-cases", 2)
    made = go_through(capsys, raw, work, planning=planning)
    check_learned(made.summary["labels"], left_out=("back",))
    assert "structure back: in 1 of 5 case(s)" in made.told
    assert "left out: in fewer than 2 case(s)" in made.told
    assert strict(work / raw.name / "plans" / "default.json")["left_out"] == ["back"]
    store = work / raw.name / "preprocessed" / "default_3d_fullres"
    assert np.load(store / "a_seg.npy", mmap_mode="r").shape[0] == 2
    for case in CASES:
        predicted = read_nifti(made.predictions / f"{case}.nii.gz")
        assert predicted.shape == (*masks[case]["whole"].shape, 3)
        assert not predicted[..., 2].any()
    # A plan that leaves nothing out makes stale what was preprocessed, and the model.
    segkit(capsys, "plan", raw, "-w", work)
    refused = segkit(capsys, *train(raw, work), "--fold", 1, code=1)
    assert "5 of 5 cases are not preprocessed" in refused.err


def test_a_folder_of_masks_not_annotated_everywhere(raw, tmp_path, capsys):
    masks = structure_dataset(raw, unannotated={"b": ["front"]})
    for case, found in masks.items():
        for name in STRUCTURES:
            if (case, name) != ("b", "front"):
                file = raw / "labelsTr" / case / f"{name}.nii.gz"
                write_nifti(file, found[name].astype(np.uint8), GRID_MM)
    used = np.ones(masks["c"]["whole"].shape, dtype=np.uint8)
    used[:, :6] = 0
    write_nifti(raw / "masksTr" / "c.nii.gz", used, GRID_MM)
    work = tmp_path / "work"
    made = go_through(capsys, raw, work, settings=("loss.class_weights=auto",))
    check_learned(made.summary["labels"])
    assert "structure front: in 4 of 4 case(s) (1 not annotated)" in made.told
    store = work / raw.name / "preprocessed" / "default_3d_fullres"
    assert (np.load(store / "b_seg.npy")[1] == 2).all()
    assert 0.2 < (np.load(store / "c_seg.npy") == 2).mean() < 0.5
    for case in CASES:
        files = sorted(path.name for path in (made.predictions / case).iterdir())
        assert files == ["back.nii.gz", "front.nii.gz", "whole.nii.gz"]
        assert np.isin(read_nifti(made.predictions / case / "whole.nii.gz"), (0, 1)).all()
    (case_b,) = [case for case in made.summary["cases"] if case["case"] == "b"]
    assert case_b["labels"]["front"]["dice"] is None
    assert made.summary["labels"]["front"]["dice"]["undefined"] == 1
    assert made.summary["labels"]["front"]["dice"]["n"] <= 4


def test_regions_with_ignored_slices(raw, tmp_path, capsys):
    labels = {"background": 0, "whole": [10, 20], "front": [20], "ignore": 99}
    masks = make_images(raw, labels, regions_class_order=[10, 20])
    for case, found in masks.items():
        label = np.where(found["front"], 20, 10 * found["whole"])
        label[:, :, ::3] = 99
        write_nifti(raw / "labelsTr" / f"{case}.nii.gz", label.astype(np.uint8), GRID_MM)
    settings = ("loss.class_weights=auto", "loss.cross_entropy=focal")
    made = go_through(capsys, raw, tmp_path / "work", settings=settings)
    check_learned(made.summary["regions"])
    assert made.summary["regions"].keys() == {"whole", "front"}
    assert len(made.summary["labels"]) == 2
    for case in CASES:
        assert np.isin(read_nifti(made.predictions / f"{case}.nii.gz"), (0, 10, 20)).all()


def test_pretrained_weights_with_and_without_an_ignore_label(raw, tmp_path, capsys):
    first, second = {"whole": 1, "front": 2}, {"front": 1, "whole": 2}
    for folder, values, ignore in ((raw, first, {"ignore": 3}), (tmp_path / "Other", second, {})):
        masks = make_images(folder, {"background": 0, **values, **ignore})
        for case, found in masks.items():
            label = np.where(found["front"], values["front"], values["whole"] * found["whole"])
            label[:, :, ::4] = ignore.get("ignore", 0)
            write_nifti(folder / "labelsTr" / f"{case}.nii.gz", label.astype(np.uint8), GRID_MM)
        segkit(capsys, "plan_and_preprocess", folder, "-w", tmp_path / "work", "-c", "3d_fullres")
    work, model = tmp_path / "work", tmp_path / "work" / raw.name / "models"
    segkit(capsys, *train(raw, work), "final_validation=false")
    model /= "default_3d_fullres_debug"
    second_run = (*train(tmp_path / "Other", work), "final_validation=false", "--fold", 1)
    told = segkit(capsys, *second_run, "--pretrained", model).err
    assert "outputs taken over by name: background, front, whole" in told
    assert "had an ignore label (value 3), this data set has none" in told
    fold = work / "Other" / "models" / "default_3d_fullres_debug" / "fold_1"
    origin = strict(fold / "recipe.json")["pretrained"]
    assert origin["path"] == str(model / "fold_0" / "final.pt")
    assert len(origin["content_hash"]) == 16
    assert "look too good" not in told
    # Going on keeps the record, and does not begin with the pretrained weights again.
    other_fold = segkit(capsys, *second_run, "--overwrite", "--pretrained", fold, "--fold", 2)
    assert "fold_1 of the same data set has seen cases that fold 2 validates on" in other_fold.err
    refused = segkit(capsys, *second_run, "--pretrained", model, "--resume", code=2)
    assert "has its weights already" in refused.err
    segkit(capsys, *second_run, "--resume", "--set", "epochs=3")
    assert strict(fold / "recipe.json")["pretrained"] == origin
    for wrong, text in (
        (model / "fold_0" / "none.pt", "final.pt"),
        (raw, "no fold of a model"),
        (model / "fold_3", "no such checkpoint"),
    ):
        command = (*second_run, "--overwrite", "--pretrained", wrong)
        assert text in segkit(capsys, *command, code=1).err
    assert (fold / "final.pt").is_file()
