"""What comes after training, through the real command line, on a small data set with two folds."""

import json
import shutil

import numpy as np
import pytest
from commands import read_nifti, segkit, strict, write_nifti

from segkit.cli.main import main

GRID_MM = (1.0, 1.0, 2.0)
CASES = tuple("abcdef")
FOLDS = [{"train": list("abc"), "val": list("def")}, {"train": list("def"), "val": list("abc")}]
TINY = ("sampling.batch_size=2", "iterations_per_epoch=6", "epochs=1", "final_validation=false")
PATCHES = {"2d": "sampling.patch_size=[16,16]", "3d_fullres": "sampling.patch_size=[8,16,16]"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Balls of two halves in noise."""
    folder = tmp_path_factory.mktemp("after") / "Dataset045_Balls"
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[:20, :18, :10]
    for case in CASES:
        radius = rng.uniform(4.0, 5.5)
        whole = (x - 10) ** 2 + (y - 9) ** 2 + (2 * (z - 5)) ** 2 < radius**2
        image = rng.normal(100, 5, whole.shape) + 60 * whole + 30 * (whole & (x < 10))
        write_nifti(folder / "imagesTr" / f"{case}_0000.nii.gz", image.astype(np.float32), GRID_MM)
        label = whole + (whole & (x < 10))
        write_nifti(folder / "labelsTr" / f"{case}.nii.gz", label.astype(np.uint8), GRID_MM)
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "back": 1, "front": 2},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    (folder / "splits_final.json").write_text(json.dumps(FOLDS))
    return folder


def train(raw, work, configuration, *more):
    given = ("train", raw, configuration, "-w", work, "--recipe", "debug", "--device", "cpu")
    return *given, *more, "--set", PATCHES[configuration], *TINY


@pytest.fixture(scope="module")
def trained(raw):
    """Two models, of which the 2D one has all folds."""
    work = raw.parent / "work"
    commands = [
        ("plan_and_preprocess", raw, "-w", work),
        *(train(raw, work, "2d", "--fold", fold) for fold in (0, 1)),
        train(raw, work, "3d_fullres", "--fold", 0),
    ]
    for command in commands:
        assert main([*map(str, command), "-j", "1"]) == 0
    return work


@pytest.fixture
def work(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "work")
    return tmp_path / "work"


def model(work, configuration):
    return work / "Dataset045_Balls" / "models" / f"default_{configuration}_debug"


def crossval(capsys, raw, work, configuration, *more, code=0):
    given = ("crossval", raw, configuration, "-w", work, "--device", "cpu")
    return segkit(capsys, *given, *more, code=code)


def test_trained_folds_are_validated_on_whole_images(raw, work, capsys):
    told = crossval(capsys, raw, work, "2d")
    title = "default_2d_debug, final.pt of folds 0, 1: 6 cases, each predicted by a fold that"
    assert told.out.startswith(title)
    assert "foreground mean" in told.out
    folder = model(work, "2d")
    for fold, split in enumerate(FOLDS):
        output = folder / f"fold_{fold}" / "validation"
        assert {path.name for path in output.glob("*.nii.gz")} == {
            f"{c}.nii.gz" for c in split["val"]
        }
        assert [c["case"] for c in strict(output / "summary.json")["cases"]] == split["val"]
    assert len(strict(folder / "crossval/summary.json")["cases"]) == 6
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("fold_*/validation/*.nii.gz")}
    (folder / "fold_0/validation/e.nii.gz").unlink()
    told = crossval(capsys, raw, work, "2d", "--folds", 0, 1)
    assert "2 of 3 cases are predicted already" in told.err
    again = {path: path.stat().st_mtime_ns for path in folder.glob("fold_*/validation/*.nii.gz")}
    assert {path.name for path in stamps if again[path] != stamps[path]} == {"e.nii.gz"}


def test_the_best_checkpoint_has_folders_of_its_own(raw, work, capsys):
    told = crossval(capsys, raw, work, "2d", "--checkpoint", "best", "--folds", 1)
    assert "best.pt of fold 1: 3 cases" in told.out
    folder = model(work, "2d")
    assert (folder / "fold_1/validation_best/summary.json").is_file()
    assert (folder / "crossval_best/summary.json").is_file()
    assert not (folder / "fold_1/validation").exists()
    assert not (folder / "crossval").exists()


def test_what_cannot_be_validated_is_told_with_the_way_out(raw, work, capsys):
    told = crossval(capsys, raw, work, "3d_fullres", "--folds", 1, code=1).err
    assert "fold 1 has no final.pt" in told
    assert f"segkit train {raw} 3d_fullres --fold 1 -w {work} --recipe debug --set " in told
    assert (
        "fold all has seen every case"
        in crossval(capsys, raw, work, "2d", "--folds", "all", code=1).err
    )
    record = model(work, "2d") / "fold_0/recipe.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "trained_on": "others"}))
    told = crossval(capsys, raw, work, "2d", code=1).err
    assert "fold 0 was trained on other cases" in told
    assert "--overwrite" in told


def test_several_folds_are_trained_by_one_command(raw, work, capsys):
    command = train(raw, work, "3d_fullres", "--folds", "all")
    told = segkit(capsys, *command[:-1])
    assert "training folds 0, 1 of default_3d_fullres_debug; one model of all cases" in told.err
    assert "fold 0 is trained already; kept" in told.err
    assert "[fold 1] epoch 1/1" in told.err
    assert "segkit crossval validates them" in told.out
    assert (model(work, "3d_fullres") / "fold_1/validation/summary.json").is_file()
    crossval(capsys, raw, work, "3d_fullres")
    assert "final.pt of folds 0, 1: 6 cases" in segkit(capsys, *command).out
    told = segkit(capsys, *train(raw, work, "2d", "--devices", "cpu"), code=2)
    assert "--folds all" in told.err


def test_run_finds_post_processing_for_its_model(raw, work, capsys):
    run = ("run", raw, "-c", "2d", "-w", work, "--recipe", "debug", "--device", "cpu", "--set")
    told = segkit(capsys, *run, PATCHES["2d"], *TINY)
    assert "is trained already; kept" in told.err
    assert "each predicted by a fold that has not seen it" in told.out
    assert "\npost-processing: " in told.out
    rules = strict(model(work, "2d") / "postprocessing.json")
    assert {trial["cases"] for trial in rules["trials"]} == {6}
    assert set(rules["weights"]) == {"fold_0/final.pt", "fold_1/final.pt"}


@pytest.fixture
def both(raw, work, capsys):
    """Two models, all folds of which are trained."""
    segkit(capsys, *train(raw, work, "3d_fullres", "--fold", 1))
    return work


def find_best(capsys, raw, work, *more, code=0):
    return segkit(capsys, "find_best", raw, "-w", work, "--device", "cpu", *more, code=code)


def predicted(capsys, model, images, out):
    given = ("-i", images, "-o", out, "-m", model, "--device", "cpu")
    told = segkit(capsys, "predict", *given)
    return told, {path.name: read_nifti(path) for path in sorted(out.glob("*.nii.gz"))}


def test_the_best_is_found_and_predicts_from_one_folder(raw, both, tmp_path, capsys):
    told = find_best(capsys, raw, both)
    names = ["default_2d_debug", "default_3d_fullres_debug"]
    names.append(" + ".join(names))
    found = strict(both / "Dataset045_Balls" / "find_best.json")
    assert list(found["scores"]) == names
    assert found["chosen"] == max(names, key=found["scores"].get)
    for name, folder in zip(names, ["2d", "3d_fullres"], strict=False):
        summary = strict(model(both, folder) / "crossval" / "summary.json")
        assert found["scores"][name] == summary["foreground_mean"]["dice"]
    assert f"* {found['chosen']}" in told.out
    best = both / "Dataset045_Balls" / "best"
    rules = strict(best / "postprocessing.json")
    assert set(rules["weights"]) == {
        f"members/{name}/fold_{fold}/final.pt"
        for name in found["chosen"].split(" + ")
        for fold in (0, 1)
    }
    shutil.copytree(best, tmp_path / "elsewhere")
    images = raw / "imagesTr"
    _, here = predicted(capsys, best, images, tmp_path / "here")
    shutil.rmtree(both)
    told, there = predicted(capsys, tmp_path / "elsewhere", images, tmp_path / "there")
    assert here.keys() == there.keys()
    assert all(np.array_equal(here[name], there[name]) for name in here)


def test_a_pair_is_the_mean_of_its_members(raw, both, tmp_path, capsys):
    find_best(capsys, raw, both)
    pair = both / "Dataset045_Balls/ensembles/default_2d_debug+default_3d_fullres_debug"
    models = [model(both, name) for name in ("2d", "3d_fullres")]
    given = ("-i", raw / "imagesTr" / "d_0000.nii.gz", "-o", tmp_path / "out", "-m", *models)
    # In the engine that made them, whose rounding it is.
    segkit(capsys, "predict", *given, "--folds", 0, "--device", "cpu", "--engine", "torch")
    found = read_nifti(pair / "fold_0" / "d.nii.gz")
    np.testing.assert_array_equal(found, read_nifti(tmp_path / "out" / "d.nii.gz"))


def test_what_is_missing_is_told_and_what_is_done_is_kept(raw, work, capsys):
    told = find_best(capsys, raw, work)
    assert "default_3d_fullres_debug is left out: folds 1 are not trained" in told.err
    assert f"segkit train {raw} 3d_fullres --fold 1 -w {work} --recipe debug --set " in told.err
    assert strict(work / "Dataset045_Balls/find_best.json")["chosen"] == "default_2d_debug"
    assert "3 of 3 cases are predicted already" in find_best(capsys, raw, work).err
    told = find_best(capsys, raw, work, "--folds", 7, code=1).err
    assert "no model has all of the folds 7 trained" in told


def test_a_folder_that_is_no_ensemble_is_kept(raw, work, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years")
    told = find_best(capsys, raw, work, "--no-ensembles", "-o", tmp_path / "mine", code=1).err
    assert "the output exists and is no such model" in told
    assert "choose another -o" in told
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "three years"
    assert not (model(work, "2d") / "crossval").exists()
    for _ in range(2):
        find_best(capsys, raw, work, "--no-ensembles", "-o", tmp_path / "best")


def test_a_dataset_alone_names_what_find_best_chose(raw, work, tmp_path, capsys):
    given = ("predict", "-i", raw / "imagesTr", "-w", work, "-d", raw, "--device", "cpu", "-o")
    told = segkit(capsys, *given, tmp_path / "out", code=2).err
    assert "-d DATASET needs a configuration" in told
    assert "let segkit find_best choose" in told
    find_best(capsys, raw, work, "--no-ensembles")
    told = segkit(capsys, *given, tmp_path / "out", "--recipe", "mine", code=2).err
    assert "needs a configuration" in told
    told = segkit(capsys, *given, tmp_path / "out").err
    assert "using what find_best chose" in told
    assert "model default_2d_debug: folds 0, 1" in told


def test_models_that_cannot_be_compared_are_told_and_left_out(raw, both, capsys):
    (model(both, "3d_fullres") / "model.json").write_text("{")
    told = find_best(capsys, raw, both)
    assert "default_3d_fullres_debug is left out" in told.err
    assert "model.json" in told.err
    assert strict(both / "Dataset045_Balls/find_best.json")["chosen"] == "default_2d_debug"


def test_a_folder_of_models_predicts_alone_and_whole(raw, work, tmp_path, capsys):
    find_best(capsys, raw, work, "--no-ensembles", "-o", tmp_path / "best")
    given = ("predict", "-i", raw / "imagesTr", "-o", tmp_path / "out", "--device", "cpu", "-m")
    told = segkit(capsys, *given, tmp_path / "best", model(work, "2d"), code=2).err
    assert "predicts alone" in told
    shutil.rmtree(tmp_path / "best" / "members" / "default_2d_debug")
    told = segkit(capsys, *given, tmp_path / "best", code=1).err
    assert "a member of the ensemble is missing" in told
