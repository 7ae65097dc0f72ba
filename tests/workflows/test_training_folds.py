"""Several folds are processes: on several devices at once, told apart, and one may fail."""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from segkit import options as opt
from segkit.cli.commands import COMMANDS, add_arguments
from segkit.errors import UsageError, UserError
from segkit.options.arguments import to_arguments
from segkit.workflows import folds as work
from segkit.workflows.folds import chosen_folds, train_folds

FAKE = """
import json, os, sys, time
from pathlib import Path
given = sys.argv[1:]
fold, device = (given[given.index(name) + 1] for name in ("--fold", "--device"))
Path(f"fold_{fold}.json").write_text(json.dumps([given, os.environ.get("OMP_NUM_THREADS")]))
print(f"begins on {device}", flush=True)
time.sleep(float(os.environ.get("SECONDS", "0")))
if fold == "2":
    print("error: out of luck\\nfix:   more of it", file=sys.stderr)
    sys.exit(1)
if fold == "3":
    os._exit(7)
Path(f"ended_{fold}").write_text(str(time.time()))
"""


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """Training is a script that writes down how it was called."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(work, "COMMAND", (sys.executable, str(tmp_path / "fake.py")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(**given):
    return opt.Train(dataset="4", configuration="2d", folds=("0", "1"), device="cpu", **given)


def called(fold):
    return json.loads(Path(f"fold_{fold}.json").read_text())


@pytest.mark.parametrize(
    ("fold", "folds", "expected"),
    [
        (None, (), ("0",)),
        ("3", (), ("3",)),
        ("all", (), ("all",)),
        (None, ("all",), ("0", "1", "2", "3", "4")),
        (None, ("4", "0", "4"), ("4", "0")),
    ],
)
def test_which_folds_are_meant(fold, folds, expected):
    assert chosen_folds(fold, folds, 5) == expected


@pytest.mark.parametrize(("fold", "folds"), [("0", ("1",)), (None, ("0", "all"))])
def test_one_model_of_all_cases_and_all_folds_are_told_apart(fold, folds):
    with pytest.raises(UsageError) as caught:
        chosen_folds(fold, folds, 5)
    assert "all: one model of all cases" in str(caught.value) or "--fold all" in str(caught.value)


def test_folds_are_trained_one_after_the_other(inside, caplog):
    caplog.set_level("INFO", logger="segkit")
    train_folds(options(time_budget=90.0, settings=("epochs=3",)), ("0", "1"), inside / "model")
    given, threads = called(0)
    assert given[:2] == ["4", "2d"]
    assert given[given.index("--time-budget") + 1] == "90.0s"
    assert given[given.index("--set") + 1] == "epochs=3"
    assert not {"--folds", "--devices", "--resume"} & set(given)
    assert threads == os.environ.get("OMP_NUM_THREADS")
    assert "[fold 0] begins on cpu" in caplog.text
    times = [float(Path(f"ended_{fold}").read_text()) for fold in (0, 1)]
    assert times[0] < times[1]


def test_what_is_trained_is_kept_and_what_was_begun_goes_on(inside, caplog):
    caplog.set_level("INFO", logger="segkit")
    for name in ("fold_0/final.pt", "fold_0/last.pt", "fold_1/last.pt"):
        (inside / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / "model" / name).write_text("")
    train_folds(options(pretrained=inside), ("0", "1", "4"), inside / "model")
    assert "fold 0 is trained already; kept" in caplog.text
    assert not Path("fold_0.json").exists()
    given, _ = called(1)
    assert "--resume" in given
    assert "--pretrained" not in given
    assert "--pretrained" in called(4)[0]
    train_folds(options(overwrite=True), ("0",), inside / "model")
    assert "--overwrite" in called(0)[0]
    assert "--resume" not in called(0)[0]
    train_folds(options(resume=True), ("0",), inside / "model")
    assert "--resume" in called(0)[0]


def test_folds_that_fail_are_named_after_the_others_are_done(inside):
    with pytest.raises(UserError) as caught:
        train_folds(options(), ("2", "3", "0"), inside / "model")
    assert "2 of 3 folds failed" in caught.value.what
    assert "[fold 2] error: out of luck\nfix:   more of it" in caught.value.what
    assert "[fold 3] begins on cpu" in caught.value.what
    assert Path("ended_0").exists()


def test_devices_are_used_at_once(inside, monkeypatch):
    monkeypatch.setenv("SECONDS", "0.5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(work, "cpu_count", lambda: 8)
    begun = time.monotonic()
    train_folds(options(devices=("cpu", "cpu")), ("0", "1", "4", "5"), inside / "model")
    assert time.monotonic() - begun < 4 * 0.5
    assert called(0)[1] == "4"
    with pytest.raises(UserError, match="cuda:77"):
        train_folds(options(devices=("cpu", "cuda:77")), ("0",), inside / "model")


@pytest.mark.skipif(os.name != "posix", reason="interruptions are handed on there alone")
def test_an_interruption_stops_all_of_them(inside, monkeypatch):
    monkeypatch.setenv("SECONDS", "30")
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train_folds(options(devices=("cpu", "cpu")), ("0", "1", "4"), inside / "model")
    assert time.monotonic() - begun < 10
    assert not Path("fold_4.json").exists()
    assert not Path("ended_0").exists()


def parsed(command, arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser, COMMANDS[command][0])
    return opt.make_options(COMMANDS[command][0], vars(parser.parse_args(arguments)))


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("train", ["4", "2d"]),
        ("train", ["4", "2d", "--fold", "all", "--set", "a=1", "b=[2,3]", "--time-budget", "1h"]),
        ("train", ["/a b/c", "3d", "--folds", "0", "2", "--overwrite", "-q", "-j", "3"]),
        ("train", ["4", "2d", "--pretrained", "x/y", "-w", "elsewhere", "--deterministic"]),
        ("predict", ["-i", "a", "b", "-o", "c", "-m", "d", "--weights", "0.5", "--no-tta"]),
        ("plan", ["4", "--spacing", "1", "2.5", "3"]),
    ],
)
def test_options_are_written_as_they_were_given(command, given):
    options = parsed(command, given)
    assert parsed(command, to_arguments(options)) == options


def test_a_fold_of_its_own_process_is_trained_alike(tmp_path):
    """The command line that is written is one that segkit understands."""
    chosen = dataclasses.replace(options(), folds=(), fold="1", workdir=tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "segkit", "train", *to_arguments(chosen)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: no dataset '4'")
