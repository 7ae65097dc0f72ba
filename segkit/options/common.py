"""How an option is described, and the options that all commands share."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATASET_HELP = "folder with dataset.json, or the name or number of a dataset under $nnUNet_raw"
CONFIG_HELP = "configuration: 2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres, where planned"
BUDGET_HELP = "train the best model in this time, e.g. 30m, 2h, 1h30m"
SET_HELP = "change recipe values, e.g. schedule.epochs=50"
RECIPE_HELP = "name of a shipped recipe or a YAML file; several joined by +, later ones count more"
PLANNER_HELP = "default, cpu (small and quick), resenc, resenc_m, resenc_l or resenc_xl"
PLAN_HELP = "plan to use: the planner that made it, or the --plan-name it was given"


def flag(*names: str, help: str, default: Any = None, **argparse: Any) -> Any:
    """Describe one option; without names it is positional."""
    return field(default=default, metadata={"names": names, "help": help, **argparse})


def workdir_flag(default: str) -> Any:
    """Describe the work folder, which the environment may name too."""
    text = f"folder for all that segkit makes (default $SEGKIT_WORKDIR or ./{default})"
    return flag("-w", "--workdir", help=text, default=Path(default), type=Path, metavar="DIR")


def plan_flag() -> Any:
    """Describe which plan of a dataset is used."""
    return flag("--planner", "--plan-name", help=PLAN_HELP, default="default", metavar="NAME")


def recipe_flag() -> Any:
    """Describe the recipe that is trained by."""
    return flag("--recipe", help=RECIPE_HELP, default="default", metavar="NAME|FILE")


def settings_flag() -> Any:
    """Describe single values of the recipe."""
    return flag("--set", help=SET_HELP, default=(), nargs="+", action="extend", metavar="KEY=VALUE")


def allow_code_flag() -> Any:
    """Describe which code of others may be run."""
    return flag(
        "--allow-code",
        help="import paths of networks that may be run although they are not segkit's own code",
        nargs="+",
        default=(),
        metavar="PACKAGE.MODULE:CLASS",
    )


def inputs_flag(help: str, metavar: str = "IN") -> Any:
    """Describe the files or folders that a command reads."""
    names = ("-i", "--input")
    return flag(*names, help=help, nargs="+", type=Path, required=True, metavar=metavar)


def folds_flag(help: str = "folds") -> Any:
    """Describe which trained folds are meant."""
    text = f"{help} (default: all trained)"
    return flag("--folds", help=text, nargs="+", default=(), type=fold)


def checkpoint_flag(more: str = "") -> Any:
    """Describe which weights of a fold are meant."""
    choices = ("final", "best", "last")
    text = f"final, best or last{more}"
    return flag("--checkpoint", help=text, default="final", choices=choices)


def number_or_word(text: str) -> float | str:
    """Read a number; anything else is a word."""
    try:
        return float(text)
    except ValueError:
        return text


def min_cases_flag(default: int | None = 0) -> Any:
    """Describe below how many cases a structure is left out."""
    text = "leave out overlapping structures that fewer than N training cases have"
    return flag("--min-cases", help=text, default=default, type=int, metavar="N")


def duration(text: str) -> float:
    """Read ``90s``, ``30m``, ``1h30m`` or ``2h``; returns seconds.

    Raises:
        ValueError: a number without a unit, not a duration, or not positive.
    """
    text = text.strip()
    if re.fullmatch(r"\d+\.?\d*", text) and float(text) > 0:
        raise ValueError(f"{text} of what? {text}s, {text}m or {text}h")
    match = re.fullmatch(r"(?:(\d+\.?\d*)h)?(?:(\d+\.?\d*)(?:m|$))?(?:(\d+\.?\d*)s)?", text)
    parts = [float(part or 0) for part in match.groups()] if match else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not match or seconds <= 0:
        raise ValueError(f"not a duration: {text!r}; write for example 90s, 30m, 2h or 1h30m")
    return seconds


def fold(text: str) -> str:
    """Read a fold: a number from 0, or ``all``.

    Raises:
        ValueError: anything else.
    """
    if text != "all" and not text.isdigit():
        raise ValueError(f"not a fold: {text!r}; use 0, 1, ... or all")
    return text if text == "all" else str(int(text))


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of all commands."""

    workdir: Path = workdir_flag("segkit_work")
    device: str = flag("--device", help="auto, cpu, cuda, cuda:N or mps", default="auto")
    jobs: int | None = flag(
        "-j",
        "--jobs",
        help="workers (default: as CPUs and memory allow)",
        type=int,
        metavar="N",
    )
    verbose: bool = flag(
        "-v", "--verbose", help="more detail, and tracebacks", default=False, action="store_true"
    )
    quiet: bool = flag(
        "-q", "--quiet", help="only warnings and results", default=False, action="store_true"
    )
    raw_folders: tuple[Path, ...] = ()
    """Searched for datasets given by name or number."""
    started: float | None = None
    """Monotonic time at which the command began; time budgets count from here."""


@dataclass(frozen=True, kw_only=True)
class Dataset(Common):
    """Options of commands that work on a raw dataset."""

    dataset: str = flag(help=DATASET_HELP, metavar="DATASET")
