"""Folds that are there already: kept where they are what is asked for, else told or refused."""

import json
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from commands import segkit, strict, write_nifti
from filelock import FileLock

from segkit.cli.main import main

CASES = tuple("abcdef")
TINY = (
    *("sampling.batch_size=2", "sampling.patch_size=[8,8]", "iterations_per_epoch=2", "epochs=1"),
    *("validation_iterations=1", "final_validation=false"),
)


@pytest.fixture(autouse=True, scope="module")
def _no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segkit.workflows.training.draw_progress", lambda folder: None)
        yield


def put(folder, case, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 10, (14, 12, 4)).astype(np.float32)
    label = (image > 105).astype(np.uint8)
    write_nifti(folder / "imagesTr" / f"{case}_0000.nii.gz", image)
    write_nifti(folder / "labelsTr" / f"{case}.nii.gz", label)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set of two folds, both of which are trained."""
    root = tmp_path_factory.mktemp("kept")
    raw = root / "Dataset046_Noise"
    for seed, case in enumerate(CASES):
        put(raw, case, seed)
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "bright": 1},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(content))
    plan = ("plan_and_preprocess", raw, "-w", root / "work", "-c", "2d", "--num-folds", 2)
    for command in (plan, *(train(root / "work", raw, "--fold", fold) for fold in (0, 1))):
        assert main([*map(str, command), "-j", "1"]) == 0
    return root


@pytest.fixture
def raw(made, tmp_path):
    shutil.copytree(made, tmp_path / "all")
    return tmp_path / "all" / "Dataset046_Noise"


@pytest.fixture
def work(raw):
    return raw.parent / "work"


def options(work, settings=TINY):
    return ("-w", work, "--recipe", "debug", "--device", "cpu", "--set", *settings)


def train(work, raw, *given, settings=()):
    return ("train", raw, "2d", *given, *options(work), *settings)


def run(work, raw, *given, settings=()):
    return ("run", raw, "-c", "2d", *given, *options(work), *settings)


def model(work):
    return work / "Dataset046_Noise" / "models" / "default_2d_debug"


def weights(work):
    return {path.parent.name: path.stat().st_mtime_ns for path in model(work).glob("*/final.pt")}


def interrupted(work, fold):
    (model(work) / f"fold_{fold}" / "final.pt").unlink()


def test_folds_of_another_recipe_are_not_taken_for_what_is_asked_for(raw, work, capsys):
    before = weights(work)
    other = ["optimizer.name=adam", "sampling.class_weights={bright: 2}"]
    told = segkit(capsys, *run(work, raw, settings=other), code=1).err
    assert "folds 0, 1: optimizer.name=sgd (now adam)" in told
    assert "sampling.class_weights=null (now " in told
    assert "--overwrite trains them anew" in told
    assert "--set optimizer.name=sgd sampling.class_weights=null keeps them" in told
    assert "default+mine.yaml" in told
    several = train(work, raw, "--folds", "all", settings=["epochs=2"])
    assert "schedule.epochs=1 (now 2)" in segkit(capsys, *several, code=1).err
    told = segkit(capsys, *run(work, raw, "--pretrained", model(work)), code=1).err
    assert "without --pretrained" in told
    assert weights(work) == before
    kept = ["compile=off", "precision=fp32", "final_validation=true", "cascade.p_morphology=0"]
    told = segkit(capsys, *run(work, raw, "--time-budget", "9s", settings=kept)).err
    assert told.count("is trained already; kept") == 2
    assert weights(work) == before


def test_a_fold_that_was_begun_otherwise_is_refused_too(raw, work, capsys):
    interrupted(work, 1)
    told = segkit(capsys, *run(work, raw, settings=["momentum=0.8"]), code=1).err
    assert "folds 0, 1: optimizer.momentum=0.99 (now 0.8)" in told
    bare = ("run", raw, "-c", "2d", *options(work, TINY[:3]))
    assert "schedule.epochs=1 (now" in segkit(capsys, *bare, code=1).err
    (model(work) / "fold_0" / "recipe.json").unlink()
    longer = run(work, raw, settings=["epochs=2"])
    assert "fold 1: training on 3 cases" in segkit(capsys, *longer).err
    record = strict(model(work) / "fold_1" / "recipe.json")
    assert record["requested"]["schedule"]["epochs"] == 2


def test_folds_that_differ_are_told_once_and_the_missing_one_is_trained_alike(raw, work, capsys):
    other = ["optimizer.name=adam", "learning_rate=0.002"]
    segkit(capsys, *train(work, raw, "--fold", 1, "--overwrite", settings=other))
    judge = (raw, "-w", work, "--device", "cpu")
    for command in (("crossval", raw, "2d", *judge[1:]), ("find_best", *judge)):
        told = segkit(capsys, *command).err
        assert told.count("were not trained alike") == 1
        assert "optimizer.name sgd in fold 0, adam in fold 1" in told
        assert "sampling" not in told
    shutil.rmtree(model(work) / "fold_0")
    told = segkit(capsys, "crossval", raw, "2d", *judge[1:], "--folds", 0, code=1).err
    typed = shlex.split(told.split("train it first: ")[1].splitlines()[0])
    assert {"optimizer.name=adam", "optimizer.learning_rate=0.002"} < set(typed)
    segkit(capsys, *typed[1:], "--device", "cpu")
    assert "not trained alike" not in segkit(capsys, "crossval", raw, "2d", *judge[1:]).err


def test_a_recipe_file_is_named_by_a_path_that_works(raw, work, tmp_path, capsys, monkeypatch):
    (tmp_path / "my recipe.yaml").write_text("optimizer: {name: adam}")
    monkeypatch.chdir(tmp_path)
    given = ("-w", work, "--device", "cpu", "--recipe", "debug+my recipe.yaml", "--set", *TINY)
    segkit(capsys, "train", raw, "2d", "--fold", 0, *given)
    monkeypatch.chdir("/")
    judge = ("crossval", raw, "2d", "-w", work, "--recipe", "debug+my recipe", "--folds", 1)
    told = segkit(capsys, *judge, code=1).err
    typed = shlex.split(told.split("train it first: ")[1].splitlines()[0])
    assert typed[typed.index("--recipe") + 1] == f"debug+{tmp_path}/my recipe.yaml"
    assert "optimizer.name=adam" not in typed
    segkit(capsys, *typed[1:], "--device", "cpu")
    assert "not trained alike" not in segkit(capsys, *judge[:-2]).err


def test_an_interrupted_run_that_has_no_time_left_is_told(raw, work, capsys):
    interrupted(work, 0)
    resume = train(work, raw, "--fold", 0, "--resume", "--time-budget", "0.001s")
    told = segkit(capsys, *resume).err
    assert "nothing was left of it to go on: all in all 2 steps were done" in told
    typed = shlex.split(told.split("go on with more time: ")[1].splitlines()[0])
    assert typed[-3:] == ["--resume", "--time-budget", "LONGER"]
    segkit(capsys, *typed[1:-1], "1s", "--device", "cpu")


def stopped(monkeypatch, capsys, command):
    """What a command says when it is interrupted while it trains."""

    def stop(*_):
        signal.raise_signal(signal.SIGINT)
        return 0.01

    with monkeypatch.context() as patch:
        patch.setattr("segkit.training.loop.learning_rate", stop)
        told = segkit(capsys, *command, code=130).err
    return next(line for line in told.splitlines() if "interrupted after" in line)


def test_weights_of_another_model_to_begin_with_are_another_model(raw, work, capsys):
    first, second = work / "first", work / "second"
    for copy in (first, second):
        shutil.copytree(model(work), copy)
    begin = train(work, raw, "--folds", 0, 1, "--overwrite", "--pretrained", first)
    segkit(capsys, *begin)
    before = weights(work)
    told = segkit(capsys, *run(work, raw, "--pretrained", second), code=1).err
    assert f"folds 0, 1: --pretrained {first}" in told
    assert "keeps them" not in told
    # A fold or a checkpoint of the model stands for it.
    same = ("--pretrained", first / "fold_0" / "final.pt")
    assert segkit(capsys, *run(work, raw, *same)).err.count("trained already; kept") == 2
    assert weights(work) == before
    shutil.rmtree(model(work) / "fold_1")
    segkit(capsys, *train(work, raw, "--fold", 1))
    told = segkit(capsys, "crossval", raw, "2d", "-w", work, "--recipe", "debug").err
    assert f"--pretrained {first} in fold 0, none in fold 1" in told
    assert "cascade" not in told


def test_what_goes_on_is_not_replaced(raw, work, capsys):
    told = segkit(capsys, *train(work, raw, "--fold", 0, "--resume", "--overwrite"), code=2).err
    assert "--resume goes on, --overwrite begins anew" in told


def test_a_model_of_an_earlier_version_is_replaced_where_all_of_it_is(raw, work, capsys):
    file = model(work) / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 1}))
    segkit(capsys, *train(work, raw, "--fold", 0, "--overwrite"), code=1)
    segkit(capsys, *train(work, raw, "--folds", "all", "--overwrite"))
    assert strict(file)["format_version"] > 1


def test_how_to_go_on_is_right_for_each_command(raw, work, capsys, monkeypatch):
    told = stopped(monkeypatch, capsys, train(work, raw, "--fold", 0, "--overwrite"))
    typed = shlex.split(told.split("go on with: ")[1])
    assert "--overwrite" not in typed
    segkit(capsys, *typed[1:], "--device", "cpu")
    told = stopped(monkeypatch, capsys, run(work, raw, "--overwrite"))
    assert "the same command without --overwrite goes on; it keeps folds that were" in told
    assert stopped(monkeypatch, capsys, run(work, raw)).endswith("the same command goes on")
    segkit(capsys, *run(work, raw))


def test_a_fold_is_trained_by_one_process_at_a_time(raw, work, capsys):
    before = weights(work)
    fold = model(work) / "fold_0"
    with FileLock(fold / ".lock"):
        told = segkit(capsys, *train(work, raw, "--fold", 0, "--overwrite"), code=1).err
    assert "another process trains this fold" in told
    assert weights(work) == before
    hold = f"from filelock import FileLock; import os; FileLock({str(fold / '.lock')!r}).acquire()"
    subprocess.run([sys.executable, "-c", f"{hold}; os._exit(9)"], check=False)
    segkit(capsys, *train(work, raw, "--fold", 0, "--overwrite"))
    assert weights(work) != before


def test_without_locks_training_goes_on(raw, work, capsys, monkeypatch):
    def no_locks(*_, **__):
        raise OSError(95, "not supported")

    monkeypatch.setattr(FileLock, "acquire", no_locks)
    segkit(capsys, *train(work, raw, "--fold", 0, "--overwrite"))


def test_another_case_does_not_replace_what_models_were_trained_on(raw, work, capsys):
    places = (work / raw.name / name for name in ("splits.json", "plans/default.json"))
    before = {path: path.read_bytes() for path in places}
    put(raw, "g", 99)
    content = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**content, "numTraining": 7}))
    commands = (("plan", raw, "-w", work), run(work, raw), ("crossval", raw, "2d", "-w", work))
    for command in commands:
        told = segkit(capsys, *command, code=1).err
        assert (
            "the cases changed (new: g) since models were trained on these folds: default_2d"
            in told
        )
        assert f"segkit plan {raw} --num-folds 2 -w {work} --overwrite-splits" in told
        assert {path: path.read_bytes() for path in before} == before
    told = segkit(capsys, *run(work, raw, "--num-folds", 2, "--overwrite-splits"), code=1).err
    assert "fold 0 was trained on other cases" in told
    assert "--overwrite trains it anew" in told
    told = segkit(capsys, "preprocess", raw, "-w", work, "-c", "2d").out
    assert "1 case(s) preprocessed, 6 unchanged" in told
    segkit(capsys, *run(work, raw, "--overwrite"))
    assert len(strict(model(work) / "crossval" / "summary.json")["cases"]) == 7


def test_all_folds_are_trained_anew_by_one_command(raw, work, capsys):
    before = weights(work)
    smaller = ["sampling.patch_size=[8,16]"]
    alone = train(work, raw, "--fold", 0, "--overwrite", settings=smaller)
    told = segkit(capsys, *alone, code=1).err
    assert "now [8, 16]): fold_1" in told
    assert "--folds all --overwrite trains all of today's folds anew" in told
    segkit(capsys, *train(work, raw, "--folds", "all", "--overwrite", settings=smaller))
    assert weights(work).keys() == before.keys()
    assert not set(weights(work).values()) & set(before.values())


def test_names_that_nothing_has_are_told_with_the_nearest(raw, work, capsys):
    told = segkit(capsys, "find_best", raw, "-w", work, "-c", "2dd", code=1).err
    assert "no trained model has '2dd'" in told
    assert "did you mean '2d'?" in told
    told = segkit(capsys, "find_best", raw, "-w", work, "--recipes", "debugg", code=1).err
    assert "did you mean 'debug'?" in told
    told = segkit(capsys, "train", raw, "3d_lowres", "-w", work, code=1).err
    assert "3d_lowres is not planned for this data set: no 3d_lowres and no 3d_cascade" in told
    assert "did you mean" not in told


def test_a_model_that_is_not_trained_is_told_with_the_command(raw, work, capsys):
    judge = ("-w", work, "--device", "cpu")
    told = segkit(capsys, "crossval", raw, "3d_fullres", *judge, code=1).err
    assert "3d_fullres is not trained yet" in told
    assert f"segkit train {raw} 3d_fullres --folds all -w {work}" in told
    assert "did you mean '2d'" in segkit(capsys, "crossval", raw, "2dd", *judge, code=1).err


def test_only_checkpoints_that_are_there_are_offered(raw, work, tmp_path, capsys):
    images = sorted((raw / "imagesTr").iterdir())[0]
    predict = ("predict", "-i", images, "-o", tmp_path / "o", "-m", model(work), "--device", "cpu")
    for fold in (0, 1):
        interrupted(work, fold)
    told = segkit(capsys, *predict, code=1).err
    assert "segkit train --fold 0 --resume), or use --checkpoint best" in told
    for path in model(work).glob("*/best.pt"):
        path.unlink()
    assert "--checkpoint best" not in segkit(capsys, *predict, code=1).err
