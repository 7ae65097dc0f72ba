"""A low resolution and a cascade on it, through the real command line, on small data of our own."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from commands import read_nifti, segkit, write_nifti

from segkit.cli.main import main
from segkit.inference.engines.openvino import has_int8

CASES = ("a", "b", "c", "d", "e")
TINY = ("sampling.patch_size=[16,16,16]", "sampling.batch_size=2")
CASCADE = "3d_cascade_fullres"


@pytest.fixture(autouse=True, scope="module")
def _no_pictures():
    """Most of the time of so short a training would go into pictures of its progress."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segkit.workflows.training.draw_progress", lambda folder: None)
        yield


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Bright balls in images that are much larger than a patch."""
    folder = tmp_path_factory.mktemp("cascade") / "Dataset043_Large"
    rng = np.random.default_rng(0)
    grid = np.mgrid[:24, :22, :20]
    for case in CASES:
        centre = rng.integers(8, 13, (3, 1, 1, 1))
        inside = ((grid - centre) ** 2).sum(0) < rng.uniform(30, 60)
        image = rng.normal(100, 10, inside.shape) + 60 * inside
        write_nifti(folder / "imagesTr" / f"{case}_0000.nii.gz", image.astype(np.float32))
        label = inside + (inside & (grid[0] > centre[0]))
        write_nifti(folder / "labelsTr" / f"{case}.nii.gz", label.astype(np.uint8))
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "whole": 1, "half": 2},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def options(work, *, recipe="debug"):
    return ("-w", work, "--recipe", recipe, "--device", "cpu", "--set", *TINY)


@pytest.fixture(scope="module")
def work(raw):
    """The data set, planned for a tiny GPU and preprocessed."""
    folder = raw.parent / "work"
    planning = ("-w", folder, "--gpu-memory-gb", "0.002", "-j", "1")
    assert main(["plan_and_preprocess", str(raw), *map(str, planning)]) == 0
    return folder


def models(work, raw):
    return work / raw.name / "models"


def test_both_resolutions_are_planned_and_one_copy_of_the_cases_serves_two(raw, work, capsys):
    told = segkit(capsys, "preprocess", raw, "-w", work, "-c", "3d_lowres", CASCADE).out
    assert "3d_lowres: 0 case(s) preprocessed, 5 unchanged" in told
    assert f"{CASCADE}: 0 case(s) preprocessed, 5 unchanged" in told
    stores = {path.name for path in (work / raw.name / "preprocessed").iterdir()}
    assert stores == {"default_2d", "default_3d_lowres", "default_3d_fullres"}


@pytest.fixture(scope="module")
def trained(raw, work):
    """All of it: both stages, by one command."""
    run = ("run", raw, "-c", CASCADE, *options(work), "-j", "1")
    return [main([*map(str, run)])]


@pytest.fixture
def copied(work, trained, tmp_path):
    """All of it, to be changed."""
    shutil.copytree(work, tmp_path / "work")
    return tmp_path / "work"


def test_one_command_trains_both_stages_and_goes_on_where_it_stopped(raw, work, trained, capsys):
    assert trained == [0]
    for name in ("3d_lowres", CASCADE):
        model = models(work, raw) / f"default_{name}_debug"
        assert len(list(model.glob("fold_?/validation/summary.json"))) == 5
        summary = json.loads((model / "crossval" / "summary.json").read_text())
        assert len(summary["cases"]) == len(CASES)
    predicted = work / raw.name / "preprocessed/default_3d_fullres/previous_stage"
    predicted /= "default_3d_lowres_debug/crossval"
    assert {path.name for path in predicted.glob("*.npy")} == {f"{case}.npy" for case in CASES}
    before = {path: path.stat().st_mtime_ns for path in predicted.iterdir()}
    shutil.rmtree(models(work, raw) / f"default_{CASCADE}_debug" / "fold_3")
    told = segkit(capsys, "run", raw, "-c", CASCADE, *options(work)).err
    assert told.count("is trained already; kept") == 9
    assert f"{CASCADE} fold 3: training on" in told
    assert "predicts the" not in told
    assert {path: path.stat().st_mtime_ns for path in predicted.iterdir()} == before


@pytest.mark.skipif(
    not (has_int8() and find_spec("openvino")), reason="needs openvino and a processor with int8"
)
@pytest.mark.filterwarnings("ignore")
def test_both_stages_are_calibrated_for_integers(raw, copied, tmp_path, capsys):
    model = models(copied, raw) / f"default_{CASCADE}_debug"
    images = ("-i", raw / "imagesTr", "--device", "cpu")
    int8 = ("predict", "-m", model, *images, "-o", tmp_path / "out", "--engine", "openvino-int8")
    assert f"segkit quantize -m {model} -i IMAGES" in segkit(capsys, *int8, code=1).err
    told = segkit(capsys, "quantize", "-m", model, *images, "--cases", "2").out
    for folder in (model / "previous_stage", model):
        files = [folder / f"fold_{fold}/final_int8.json" for fold in range(5)]
        assert all(str(path) in told and path.exists() for path in files)
    segkit(capsys, *int8)
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == len(CASES)


def test_a_model_folder_predicts_by_itself_wherever_it_is(raw, work, trained, tmp_path, capsys):
    model = models(work, raw) / f"default_{CASCADE}_debug"
    shutil.copytree(model, tmp_path / "elsewhere")
    images = [raw / "imagesTr" / f"{case}_0000.nii.gz" for case in "bd"]
    predict = ("predict", "-i", *images, "--device", "cpu", "--precision", "fp32")
    segkit(capsys, *predict, "-m", tmp_path / "elsewhere", "-o", tmp_path / "a")
    named = ("-d", raw, "-c", CASCADE, "-w", work, "--recipe", "debug")
    segkit(capsys, *predict, *named, "-o", tmp_path / "b")
    for case in "bd":
        ours, other = (read_nifti(tmp_path / place / f"{case}.nii.gz") for place in "ab")
        np.testing.assert_array_equal(ours, other)
        assert ours.shape == (24, 22, 20)


def test_segmentations_made_elsewhere_are_refined(raw, work, trained, tmp_path, capsys):
    model = models(work, raw) / f"default_{CASCADE}_debug"
    shutil.copytree(model, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "previous_stage")
    images = [raw / "imagesTr" / f"{case}_0000.nii.gz" for case in "ab"]
    command = ("predict", "-i", *images, "-m", tmp_path / "model", "--device", "cpu")
    refused = segkit(capsys, *command, "-o", tmp_path / "out", code=1).err
    assert "--previous-stage DIR" in refused
    given = (*command, "--previous-stage", raw / "labelsTr", "--save-probabilities")
    segkit(capsys, *given, "-o", tmp_path / "told")
    shutil.copytree(raw / "labelsTr", tmp_path / "empty")
    for case in CASES:
        write_nifti(tmp_path / "empty" / f"{case}.nii.gz", np.zeros((24, 22, 20), np.uint8))
    empty = (*command, "--previous-stage", tmp_path / "empty", "--save-probabilities")
    segkit(capsys, *empty, "-o", tmp_path / "nothing")
    # What the network is told makes a difference to what it says.
    first, second = (np.load(tmp_path / p / "a.npz")["probabilities"] for p in ("told", "nothing"))
    assert np.abs(first - second).max() > 1e-3
    (tmp_path / "empty" / "b.nii.gz").unlink()
    refused = segkit(capsys, *empty, "-o", tmp_path / "none", code=1).err
    assert "no segmentation of the previous stage for b" in refused
    assert not (tmp_path / "none").exists()
    lowres = models(work, raw) / "default_3d_lowres_debug"
    plain = ("predict", "-i", raw / "imagesTr", "-m", lowres, "-o", tmp_path / "none")
    refused = segkit(capsys, *plain, "--previous-stage", raw / "labelsTr", code=1).err
    assert "3d_lowres has no previous stage" in refused


def test_a_cascade_before_its_low_resolution_is_refused_with_the_command(raw, copied, capsys):
    for path in (
        f"default_{CASCADE}_debug",
        *(f"default_3d_lowres_debug/fold_{i}" for i in (0, 2)),
    ):
        shutil.rmtree(models(copied, raw) / path)
    refused = segkit(capsys, "train", raw, CASCADE, *options(copied), code=1).err
    assert "predictions of 3d_lowres, whose folds 0, 2 are not trained" in refused
    assert f"segkit train {raw} 3d_lowres --fold 0 -w {copied} --recipe debug" in refused
    assert f"segkit run {raw} -c {CASCADE}" in refused
    assert not (models(copied, raw) / f"default_{CASCADE}_debug").exists()
    other = segkit(capsys, "train", raw, CASCADE, *options(copied, recipe="quick"), code=1).err
    assert "folds 0, 1, 2, 3, 4 are not trained" in other


def test_predictions_of_other_weights_are_made_again(raw, copied, capsys):
    train = ("train", raw, "3d_lowres", *options(copied), "final_validation=false")
    segkit(capsys, *train, "learning_rate=0.02", "--fold", 2, "--overwrite")
    cascade = ("train", raw, CASCADE, *options(copied), "--fold", 0)
    refused = segkit(capsys, *cascade, "--overwrite", code=1).err
    assert "fold_1, fold_2, fold_3, fold_4 of this cascade learned from another" in refused
    assert "--folds all --overwrite trains all of today's folds anew" in refused
    model = models(copied, raw) / f"default_{CASCADE}_debug"
    for fold in (2, 3, 4):
        shutil.rmtree(model / f"fold_{fold}")
    together = ("train", raw, CASCADE, "--folds", 0, 1, "--overwrite", *options(copied))
    told = segkit(capsys, *together, "final_validation=false").err
    assert told.count("case(s) it has not seen") == 1
    assert "3d_lowres, fold 2, predicts the 1 case(s) it has not seen" in told


def test_a_cascade_beside_its_first_stage_is_compared_on_the_folds_asked_for(raw, copied, capsys):
    for fold in range(1, 5):
        shutil.rmtree(models(copied, raw) / f"default_{CASCADE}_debug" / f"fold_{fold}")
    run = ("run", raw, "-c", CASCADE, "3d_lowres", "--folds", 0)
    told = segkit(capsys, *run, *options(copied))
    assert f"default_{CASCADE}_debug + default_3d_lowres_debug" in told.out
    assert "is left out" not in told.err


def test_trained_on_all_cases(raw, copied, tmp_path, capsys):
    train = ("train", raw, "3d_lowres", *options(copied), "final_validation=false")
    segkit(capsys, *train, "--fold", "all")
    told = segkit(capsys, "train", raw, CASCADE, *options(copied), "--fold", "all").err
    assert "3d_lowres, fold all, predicts the 5 case(s) for 3d_cascade" in told
    model = models(copied, raw) / f"default_{CASCADE}_debug"
    for fold in range(5):
        shutil.rmtree(model / f"fold_{fold}")
    image = raw / "imagesTr" / "c_0000.nii.gz"
    segkit(capsys, "predict", "-i", image, "-m", model, "-o", tmp_path / "out", "--device", "cpu")
    assert read_nifti(tmp_path / "out" / "c.nii.gz").shape == (24, 22, 20)


def test_what_would_not_end_well_is_refused_before_anything_is_trained(raw, work, trained, capsys):
    run = ("run", raw, "-c", CASCADE, *options(work))
    told = segkit(capsys, *run, "--overwrite", "--folds", 0, code=2).err
    assert "--overwrite would train 3d_lowres anew, but fold_1, fold_2, fold_3, fold_4" in told
    lowres, cascade = (
        models(work, raw) / f"default_{name}_debug" for name in ("3d_lowres", CASCADE)
    )
    told = segkit(capsys, *run, "--pretrained", lowres, code=2).err
    assert "fit 3d_lowres or 3d_cascade_fullres, not both" in told
    for model in (lowres, cascade):
        assert len(list(model.glob("fold_?/final.pt"))) == 5


def test_a_low_resolution_by_name_or_carried_and_keys_without_effect(raw, copied, tmp_path, capsys):
    lowres, cascade = (
        models(copied, raw) / f"default_{name}_debug" for name in ("3d_lowres", CASCADE)
    )
    shutil.copytree(lowres, tmp_path / "mine")
    shutil.rmtree(lowres)
    train = ("train", raw, CASCADE, *options(copied), "--overwrite")
    assert "is gone; going on with" in segkit(capsys, *train).err
    shutil.rmtree(cascade)
    told = segkit(capsys, *train, "--previous-model", tmp_path / "mine").err
    # What is predicted already was predicted by these weights.
    assert "predicts the" not in told
    started = ("train", raw, "3d_lowres", *options(copied), "cascade.p_morphology=0")
    assert "cascade.* of the recipe has no effect" in segkit(capsys, *started).err
