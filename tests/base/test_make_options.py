"""Keywords become options as the command line reads them; what is wrong is named."""

from dataclasses import fields
from pathlib import Path

import pytest

from segkit import options as opt
from segkit.cli.commands import COMMANDS
from segkit.cli.main import build_parser
from segkit.errors import UserError

NEEDED = {
    opt.Train: {"dataset": "4", "configuration": "2d"},
    opt.Predict: {"inputs": "in", "output": "out"},
    opt.Plan: {"dataset": "4"},
    opt.Evaluate: {"predictions": "p", "references": "r", "description": "d"},
}


def made(command, **given):
    return opt.make_options(command, {**NEEDED[command], **given})


@pytest.mark.parametrize(
    ("command", "name", "given", "expected"),
    [
        (opt.Train, "dataset", Path("data/4"), "data/4"),
        (opt.Train, "fold", 3, "3"),
        (opt.Train, "fold", "03", "3"),
        (opt.Train, "fold", None, None),
        (opt.Train, "time_budget", "1h30m", 5400.0),
        (opt.Train, "time_budget", 90, 90.0),
        (opt.Train, "settings", "epochs=3", ("epochs=3",)),
        (opt.Train, "settings", {"epochs": 3, "a": [1, None]}, ("epochs=3", "a=[1, null]")),
        (opt.Train, "workdir", "work", Path("work")),
        (opt.Train, "raw_folders", ["a"], (Path("a"),)),
        (opt.Train, "jobs", "2", 2),
        (opt.Predict, "inputs", ["a", Path("b")], (Path("a"), Path("b"))),
        (opt.Predict, "folds", [0, "1"], ("0", "1")),
        (opt.Predict, "folds", 2, ("2",)),
        (opt.Predict, "step", 1, 1.0),
        (opt.Predict, "precision", "bf16", "bf16"),
        (opt.Plan, "spacing", (1, 2, "3"), (1.0, 2.0, 3.0)),
        (opt.Plan, "spacing", "isotropic", ("isotropic",)),
        (opt.Plan, "configurations", iter(["2d"]), ("2d",)),
        (opt.Evaluate, "masks", "m", Path("m")),
    ],
)
def test_values_are_read_as_on_the_command_line(command, name, given, expected):
    value = getattr(made(command, **{name: given}), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        (opt.Train, {"flod": 1}, "unknown option 'flod'(.|\n)*mean 'fold'"),
        (opt.Train, {"set": "a=1"}, "mean 'settings'"),
        (opt.Predict, {"continue": True}, "mean 'keep_done'"),
        (opt.Predict, {"tta": False}, "mean 'no_tta'"),
        (opt.Train, {"fold": "x"}, "not a fold"),
        (opt.Train, {"time_budget": 0}, "not a duration"),
        (opt.Train, {"time_budget": True}, "not a duration"),
        (opt.Train, {"time_budget": "soon"}, "not a duration"),
        (opt.Train, {"time_budget": "20"}, "20 of what"),
        (opt.Train, {"jobs": 1.5}, "expected int"),
        (opt.Train, {"jobs": "two"}, "cannot be jobs"),
        (opt.Train, {"resume": "yes"}, "expected bool"),
        (opt.Train, {"recipe": 3}, "expected str"),
        (opt.Predict, {"checkpoint": "bset"}, "mean 'best'"),
        (opt.Predict, {"precision": "fp8"}, "'fp8' is not allowed"),
        (opt.Predict, {"inputs": [3]}, "cannot be inputs"),
        (opt.Predict, {"inputs": None}, "'inputs' is missing"),
        (opt.Train, {"configuration": None}, "'configuration' is missing"),
    ],
)
def test_what_is_wrong_is_named(command, given, message):
    with pytest.raises(UserError, match=message):
        made(command, **given)


def test_the_environment_says_where(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGKIT_WORKDIR", "w")
    monkeypatch.setenv("nnUNet_raw", "r")
    options = made(opt.Train)
    assert (options.workdir, options.raw_folders) == (Path("w"), (Path("r"), Path("w/raw")))
    options = made(opt.Train, workdir=tmp_path)
    assert (options.workdir, options.raw_folders) == (tmp_path, (Path("r"), tmp_path / "raw"))


@pytest.mark.parametrize("name", COMMANDS)
def test_what_the_parser_makes_passes(name):
    """Values that argparse converted stay as they are, and so does every default."""
    command = COMMANDS[name][0]
    own = [f for f in fields(command) if f.metadata]
    arguments = [name]
    for field in own:
        if field.metadata["names"] == () and field.metadata.get("nargs") not in ("?", "*"):
            arguments.append("x")
        elif field.metadata.get("required"):
            arguments += [field.metadata["names"][0], "x"]
    parsed = vars(build_parser().parse_args(arguments))
    del parsed["command"]
    options = opt.make_options(command, parsed, started=1.0)
    assert options.started == 1.0
    again = {field.name: getattr(options, field.name) for field in own}
    assert opt.make_options(command, again, started=1.0) == options
