"""The command line from outside: exit codes, messages, help."""

import gc
import json
import signal
import subprocess
import sys

import pytest

from segkit.cli.commands import COMMANDS
from segkit.cli.main import main
from segkit.options import duration, fold


def segkit(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "segkit", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environment},
        timeout=120,
    )


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_goes_to_stdout_and_succeeds(command):
    done = segkit(*command.split(), "--help")
    assert done.returncode == 0
    assert "usage: segkit" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["trian"], "did you mean 'train'"),
        (["train"], "DATASET"),
        (["train", "4", "2d", "--fold", "x"], "--fold: not a fold: 'x'; use 0, 1, ... or all"),
        (
            ["train", "4", "2d", "--time-budget", "soon"],
            "--time-budget: not a duration: 'soon'; write",
        ),
        (["train", "4", "2d", "--time-budget", "90sec"], "for example 90s, 30m, 2h or 1h30m"),
        (["demo", "--time-budget", "20"], "--time-budget: 20 of what? 20s, 20m or 20h"),
        (["train", "4", "2d", "--nonsense"], "--nonsense"),
        (["predict", "-o", "out"], "-i/--input"),
    ],
)
def test_wrong_usage_ends_with_2(arguments, message):
    done = segkit(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_faults_of_the_user_end_with_1_and_one_block(tmp_path):
    done = segkit("plan", tmp_path / "nothing", "-w", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no such folder\nwhere: {tmp_path / 'nothing'}\n")
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_v_adds_the_traceback(tmp_path):
    done = segkit("plan", tmp_path / "nothing", "-v")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_validation_as_json(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "a"}}')
    done = segkit("validate", tmp_path, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert {"code", "severity", "message", "where", "remedy"} <= report["errors"][0].keys()


def test_a_mended_copy(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    description = '{"labels": {"0": "background", "1": "a"}, "numTraining": 0}'
    (raw / "dataset.json").write_text(description)
    done = segkit("validate", raw, "--fix", tmp_path / "out", "--json")
    assert done.returncode == 1  # channel_names and file_ending are still missing
    report = json.loads(done.stdout)
    assert [line["code"] for line in report["mended"]] == ["SK-D023"]
    assert {error["code"] for error in report["errors"]} == {"SK-D004"}
    assert report["written"] == str(tmp_path / "out")
    assert (raw / "dataset.json").read_text() == description
    done = segkit("validate", raw, "--fix", tmp_path / "out")
    assert done.returncode == 1
    assert "not empty" in done.stderr
    done = segkit("validate", tmp_path / "out", "--fix", tmp_path / "again")
    assert "nothing was written" in done.stdout
    assert not (tmp_path / "again").exists()


def test_datasets_are_found_under_nnunet_raw(tmp_path):
    (tmp_path / "Dataset007_Heart").mkdir()
    done = segkit("plan", "7", nnUNet_raw=str(tmp_path))
    assert "Dataset007_Heart" in done.stderr
    assert "dataset.json" in done.stderr


def test_predict_needs_a_model_or_a_dataset(tmp_path):
    for given in ([], ["-d", "4", "-m", "x"]):
        done = segkit("predict", "-i", tmp_path, "-o", tmp_path, *given)
        assert done.returncode == 2
        assert "error:" in done.stderr


def test_files_where_folders_should_be_are_explained(tmp_path):
    (tmp_path / "file").write_text("")
    done = segkit("demo", "-w", tmp_path / "file")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr


def test_doctor():
    done = segkit("doctor", "--device", "cpu")
    assert done.returncode == 0
    assert "torch" in done.stdout
    assert "dataset.schema.json" in done.stdout


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("90s", 90), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("1h30", 5400)],
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "m", "-5m", "5x", "5m3h"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="duration"):
        duration(text)


@pytest.mark.parametrize("text", ["20", " 20 ", "1.5"])
def test_a_number_is_no_duration(text):
    with pytest.raises(ValueError, match=rf"{text.strip()} of what\? {text.strip()}s, "):
        duration(text)


def test_folds():
    assert [fold("0"), fold("04"), fold("all")] == ["0", "4", "all"]
    with pytest.raises(ValueError, match="fold"):
        fold("-1")


def test_an_interrupted_program_does_not_wait_for_its_threads():
    code = """
import sys, threading
from segkit.cli import main as cli
from segkit.parallel import map_cases, threads

def wait_long(number):
    print("at work", flush=True)
    threading.Event().wait(600)

def endless(*_, **__):
    with threads(1) as pool:
        map_cases(wait_long, [1], label="x", executor=pool)

cli._run = endless
sys.argv = ["segkit", "validate", "4"]
sys.exit(cli.main())
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True) as run:
        assert run.stdout.readline() == "at work\n"
        run.send_signal(signal.SIGINT)
        _, messages = run.communicate(timeout=60)
    assert run.returncode == 130
    assert messages.splitlines()[-1] == "interrupted"


def test_a_program_of_its_own_keeps_what_it_imports_and_collects_the_rest():
    code = """
import gc, sys
from types import SimpleNamespace
from segkit.cli import main as cli
import segkit.workflows.doctor as doctor

def look(options):
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1000
    return SimpleNamespace(text="", ok=True)

doctor.doctor = look
sys.argv = ["segkit", "doctor"]
before = gc.get_freeze_count()
assert before == 0
sys.exit(cli.main())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_command_inside_another_program_leaves_its_garbage_collection_alone(tmp_path):
    before = gc.get_freeze_count()
    assert main(["validate", str(tmp_path)]) == 1
    assert gc.isenabled()
    assert gc.get_freeze_count() == before
