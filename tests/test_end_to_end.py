"""The real command line, from a raw dataset to a report, on small data of our own."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from commands import strict

from segkit.dataset.demo import make_demo_dataset

SMALL = ("--set", "sampling.patch_size=[8,32,32]")


def segkit(*arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "segkit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny dataset, planned, preprocessed and trained with the debug recipe."""
    root = tmp_path_factory.mktemp("demo")
    raw = root / "Dataset999_Demo"
    make_demo_dataset(raw, cases=6)
    work = root / "work"
    segkit("plan_and_preprocess", raw, "-w", work, "-j", 2)
    segkit("train", raw, "3d_fullres", "-w", work, "--recipe", "debug", *SMALL)
    return raw, work


@pytest.fixture(scope="module")
def model(trained):
    raw, work = trained
    return work / raw.name / "models" / "default_3d_fullres_debug"


def test_all_artefacts_are_where_the_design_says(trained, model):
    raw, work = trained
    folder = work / raw.name
    for name in ("fingerprint.json", "splits.json", "plans/default.json"):
        content = strict(folder / name)
        assert {"format_version", "segkit_version", "made_from"} <= content.keys()
    plan = strict(folder / "plans" / "default.json")["configurations"]
    assert plan.keys() == {"2d", "3d_fullres"}
    for key in ("spacing_mm", "patch_size", "batch_size", "median_shape", "normalization"):
        assert key in plan["3d_fullres"]
    assert {"features_per_stage", "strides", "kernel_sizes"} <= plan["2d"]["network"].keys()
    for suffix in (".npy", "_seg.npy", ".json"):
        assert (folder / "preprocessed" / "default_3d_fullres" / f"demo_001{suffix}").is_file()
    fold = model / "fold_0"
    for name in ("last.pt", "best.pt", "final.pt", "progress.png", "validation/summary.json"):
        assert (fold / name).is_file(), name
    log = [json.loads(line) for line in (fold / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == [1, 2]


def test_the_zero_border_is_invalid(trained):
    raw, work = trained
    store = work / raw.name / "preprocessed" / "default_3d_fullres"
    seg = np.load(store / "demo_001_seg.npy")
    assert seg.dtype == np.int16
    assert (seg == -1).mean() > 0.05
    assert set(np.unique(seg)) <= {-1, 0, 1, 2}


def test_predictions_lie_on_the_grid_of_their_images(trained, model, tmp_path):
    raw, _ = trained
    segkit("predict", "-i", raw / "imagesTs", "-o", tmp_path, "-m", model, "--no-tta")
    images = sorted((raw / "imagesTs").glob("*_0000.nii.gz"))
    assert len(images) == len(list(tmp_path.glob("*.nii.gz")))
    for path in images:
        image = sitk.ReadImage(str(path))
        second = sitk.ReadImage(str(path).replace("_0000", "_0001"))
        labels = sitk.ReadImage(str(tmp_path / path.name.replace("_0000", "")))
        assert labels.GetSize() == image.GetSize()
        assert labels.GetSpacing() == image.GetSpacing()
        assert labels.GetOrigin() == image.GetOrigin()
        assert labels.GetDirection() == image.GetDirection()
        assert labels.GetPixelID() == sitk.sitkUInt8
        empty = (sitk.GetArrayFromImage(image) == 0) & (sitk.GetArrayFromImage(second) == 0)
        assert (sitk.GetArrayFromImage(labels)[empty] == 0).mean() > 0.99


def test_a_copied_model_folder_predicts_alike_and_probabilities_fit(trained, model, tmp_path):
    raw, _ = trained
    shutil.copytree(model, tmp_path / "elsewhere")
    case = sorted((raw / "imagesTs").glob("*"))[:2]
    segkit(
        *("predict", "-i", *case, "-o", tmp_path / "a", "-m", tmp_path / "elsewhere"),
        *("--no-tta", "--step", 1, "--save-probabilities"),
    )
    name = case[0].name.removesuffix("_0000.nii.gz")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a" / f"{name}.nii.gz")))
    shares = np.load(tmp_path / "a" / f"{name}.npz")["probabilities"]
    assert shares.shape == (3, *labels.shape)
    assert np.allclose(shares.sum(0), 1, atol=1e-5)
    assert (shares.argmax(0) == labels).mean() > 0.999


def test_outputs_that_would_mix_with_inputs_are_refused(trained, model, tmp_path):
    raw, _ = trained
    predict = ("predict", "-m", model, "-i", raw / "imagesTs")
    assert "holds the input" in segkit(*predict, "-o", raw / "imagesTs", code=1).stderr
    assert "not a file" in segkit(*predict, "-o", tmp_path / "a.nii.gz", code=2).stderr


def test_evaluation_writes_table_summary_and_report(trained, tmp_path):
    raw, _ = trained
    done = segkit(
        *("evaluate", "-p", raw / "labelsTs", "-r", raw / "labelsTs"),
        *("-d", raw / "dataset.json", "-o", tmp_path),
    )
    assert "n/a (absent in 1 of 4)" in done.stdout
    summary = strict(tmp_path / "summary.json")
    assert summary["foreground_mean"]["dice"] == 1.0
    assert summary["regions"] == {}
    statistics = summary["labels"]["lesion"]["dice"]
    assert statistics.keys() == {"mean", "std", "median", "ci95", "n", "undefined"}
    assert (statistics["n"], statistics["undefined"]) == (3, 1)
    assert len(summary["cases"]) == 4
    assert (tmp_path / "cases.csv").read_text().startswith("case,kind,name,dice")
    assert "<html" in (tmp_path / "report.html").read_text()


def test_finished_folds_are_neither_overwritten_nor_resumed_from_nothing(trained):
    raw, work = trained
    train = ("train", raw, "3d_fullres", "-w", work, "--recipe", "debug", *SMALL)
    assert "--overwrite" in segkit(*train, code=1).stderr
    assert "nothing to resume" in segkit(*train, "--fold", 1, "--resume", code=1).stderr


def test_resuming_extends_a_run_and_refuses_other_settings(trained, tmp_path):
    raw, work = trained
    shutil.copytree(work, tmp_path / "work")
    train = (
        *("train", raw, "3d_fullres", "-w", tmp_path / "work", "--recipe", "debug", "--resume"),
        *("--set", "final_validation=false"),
    )
    assert "optimizer.learning_rate" in segkit(*train, "learning_rate=0.5", code=1).stderr
    segkit(*train, "epochs=3")
    log = tmp_path / "work" / raw.name / "models/default_3d_fullres_debug/fold_0/log.jsonl"
    assert [json.loads(x)["epoch"] for x in log.read_text().splitlines()] == [1, 2, 3]
    # Without --set the run keeps the three epochs it was extended to, and has nothing left to do.
    assert "trained 3 epochs" in segkit(*train).stdout


def test_a_time_budget_ends_in_time_with_a_final_checkpoint(trained):
    raw, work = trained
    train = ("train", raw, "2d", "-w", work)
    small = ("--set", "sampling.batch_size=2", "sampling.patch_size=[32,32]")
    done = segkit(*train, "--time-budget", "15s", *small)
    fold = work / raw.name / "models" / "default_2d" / "fold_0"
    assert (fold / "final.pt").is_file()
    assert "no final validation" in done.stderr
    records = [json.loads(line) for line in (fold / "log.jsonl").read_text().splitlines()]
    assert records[-1]["learning_rate"] < 0.01
    assert sum(record["iterations"] for record in records) > 0
    assert "no final validation" in segkit(*train, "--resume", *small).stderr


def test_ctrl_c_ends_with_130_and_nothing_is_lost(trained):
    raw, work = trained
    train = (
        *("train", raw, "3d_fullres", "-w", work, "--recipe", "debug", "--fold", "2"),
        *(*SMALL, "epochs=1000", "iterations_per_epoch=1", "final_validation=false"),
    )
    command = [sys.executable, "-m", "segkit", *map(str, train)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch 3/"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert rest.splitlines()[-1] == "interrupted"
    assert "Traceback" not in rest
    fold = work / raw.name / "models" / "default_3d_fullres_debug" / "fold_2"
    before = len((fold / "log.jsonl").read_text().splitlines())
    segkit(*train[:-3], "iterations_per_epoch=1", f"epochs={before + 1}", train[-1], "--resume")
    assert len((fold / "log.jsonl").read_text().splitlines()) == before + 1


def test_a_plan_of_other_cases_is_not_used(trained, tmp_path):
    raw, work = trained
    shutil.copytree(work, tmp_path / "work")
    copy = tmp_path / raw.name
    shutil.copytree(raw, copy)
    for path in copy.glob("*Tr/demo_006*"):
        path.unlink()
    done = segkit("preprocess", copy, "-w", tmp_path / "work", code=1)
    assert "other training cases" in done.stderr


def test_images_stored_in_another_orientation_come_back_in_it(trained, model, tmp_path):
    raw, _ = trained
    first = sorted((raw / "imagesTs").glob("*"))[:2]
    (tmp_path / "in").mkdir()
    for path in first:
        turned = sitk.DICOMOrient(sitk.ReadImage(str(path)), "PIR")
        sitk.WriteImage(turned, str(tmp_path / "in" / path.name))
    predict = ("predict", "-m", model, "--no-tta", "--precision", "fp32")
    segkit(*predict, "-i", tmp_path / "in", "-o", tmp_path / "turned")
    segkit(*predict, "-i", *first, "-o", tmp_path / "plain")
    name = first[0].name.replace("_0000", "")
    ours = sitk.ReadImage(str(tmp_path / "turned" / name))
    assert ours.GetSize() == turned.GetSize()
    assert np.allclose(ours.GetDirection(), turned.GetDirection())
    back = sitk.DICOMOrient(
        ours,
        sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
            sitk.ReadImage(str(first[0])).GetDirection()
        ),
    )
    plain = sitk.ReadImage(str(tmp_path / "plain" / name))
    assert (sitk.GetArrayFromImage(back) == sitk.GetArrayFromImage(plain)).mean() > 0.9999


def test_stale_data_is_noticed(trained, tmp_path):
    raw, work = trained
    shutil.copytree(work, tmp_path / "work")
    copy = tmp_path / raw.name
    shutil.copytree(raw, copy)
    path = copy / "labelsTr" / "demo_002.nii.gz"
    labels = sitk.ReadImage(str(path))
    sitk.WriteImage(labels * 0, str(path))
    train = ("train", copy, "3d_fullres", "-w", tmp_path / "work", "--recipe", "debug", "--fold", 1)
    assert "demo_002" in segkit(*train, code=1).stderr
    done = segkit("preprocess", copy, "-w", tmp_path / "work", "-c", "3d_fullres")
    assert "1 case(s) preprocessed, 5 unchanged" in done.stdout


def test_run_does_everything_and_keeps_trained_folds(trained, tmp_path):
    raw, _ = trained
    run = (
        *("run", raw, "-w", tmp_path, "-c", "2d", "--recipe", "debug", "--folds", 0, 1),
        *("--set", "sampling.patch_size=[32,32]"),
    )
    done = segkit(*run)
    assert "foreground mean" in done.stdout
    model = tmp_path / raw.name / "models" / "default_2d_debug"
    assert len(strict(model / "crossval" / "summary.json")["cases"]) == 3
    assert "kept" in segkit(*run).stderr
