"""The options of every command, typed once: the command line and the Python API share them.

A field is a flag: its metadata is what ``argparse`` is told. Nothing heavy is imported here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segkit.precision import PrecisionName


def _flag(*names: str, help: str, default: Any = None, **argparse: Any) -> Any:
    """Describe one option; without names it is positional."""
    return field(default=default, metadata={"names": names, "help": help, **argparse})


def _workdir(default: str) -> Any:
    """Describe the work folder, which the environment may name too."""
    text = f"folder for all that segkit makes (default $SEGKIT_WORKDIR or ./{default})"
    return _flag("-w", "--workdir", help=text, default=Path(default), type=Path, metavar="DIR")


def _min_cases() -> Any:
    text = "leave out overlapping structures that fewer than N training cases have"
    return _flag("--min-cases", help=text, default=0, type=int, metavar="N")


def duration(text: str) -> float:
    """Read ``90s``, ``30m``, ``1h30m``, ``2h`` or plain minutes; returns seconds.

    Raises:
        ValueError: not a duration, or not positive.
    """
    match = re.fullmatch(r"(?:(\d+\.?\d*)h)?(?:(\d+\.?\d*)(?:m|$))?(?:(\d+\.?\d*)s)?", text.strip())
    parts = [float(part or 0) for part in match.groups()] if match else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not match or seconds <= 0:
        raise ValueError(f"not a duration: {text!r}")
    return seconds


def fold(text: str) -> str:
    """Read a fold: a number from 0, or ``all``.

    Raises:
        ValueError: anything else.
    """
    if text != "all" and not text.isdigit():
        raise ValueError(f"not a fold: {text!r}")
    return text if text == "all" else str(int(text))


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of all commands."""

    workdir: Path = _workdir("segkit_work")
    device: str = _flag("--device", help="auto, cpu, cuda, cuda:N or mps", default="auto")
    jobs: int | None = _flag(
        "-j",
        "--jobs",
        help="workers (default: as CPUs and memory allow)",
        type=int,
        metavar="N",
    )
    verbose: bool = _flag(
        "-v", "--verbose", help="more detail, and tracebacks", default=False, action="store_true"
    )
    quiet: bool = _flag(
        "-q", "--quiet", help="only warnings and results", default=False, action="store_true"
    )
    raw_folders: tuple[Path, ...] = ()
    """Searched for datasets given by name or number."""
    started: float | None = None
    """Monotonic time at which the command began; time budgets count from here."""


_DATASET_HELP = "folder with dataset.json, or the name or number of a dataset under $nnUNet_raw"
_CONFIG_HELP = "configuration: 2d or 3d_fullres"
_BUDGET_HELP = "train the best model in this time, e.g. 30m, 2h, 1h30m"
_SET_HELP = "change recipe values, e.g. schedule.epochs=50"
_RECIPE_HELP = "name of a shipped recipe or a YAML file"
_PLANNER_HELP = "default, resenc_m, resenc_l or resenc_xl"


@dataclass(frozen=True, kw_only=True)
class Dataset(Common):
    """Options of commands that work on a raw dataset."""

    dataset: str = _flag(help=_DATASET_HELP, metavar="DATASET")


@dataclass(frozen=True, kw_only=True)
class Validate(Dataset):
    """Check a dataset: every problem of dataset.json and of all cases, in one run."""

    json: bool = _flag(
        "--json", help="print the report as JSON", default=False, action="store_true"
    )
    fix: Path | None = _flag(
        "--fix",
        help="write a copy with everything mended that has one certain mend, and check that",
        type=Path,
        metavar="OUT",
    )


@dataclass(frozen=True, kw_only=True)
class Plan(Dataset):
    """Measure the training images and plan spacing, patch, batch and network; says why."""

    configurations: tuple[str, ...] = _flag(
        "-c", "--configurations", help="which to prepare (default: all)", default=(), nargs="+"
    )
    planner: str = _flag("--planner", help=_PLANNER_HELP, default="default")
    gpu_memory_gb: float | None = _flag(
        "--gpu-memory-gb", help="plan for this much GPU memory", type=float, metavar="G"
    )
    spacing: tuple[float, ...] | None = _flag(
        "--spacing", help="target spacing in mm", type=float, nargs=3, metavar=("Z", "Y", "X")
    )
    min_cases: int = _min_cases()


@dataclass(frozen=True, kw_only=True)
class Preprocess(Dataset):
    """Crop, normalise and resample the training cases as planned; redoes only what changed."""

    configurations: tuple[str, ...] = _flag(
        "-c", "--configurations", help="which to prepare (default: all)", default=(), nargs="+"
    )
    planner: str = _flag("--planner", help=_PLANNER_HELP, default="default")


@dataclass(frozen=True, kw_only=True)
class PlanAndPreprocess(Plan):
    """Plan, then preprocess."""


@dataclass(frozen=True, kw_only=True)
class TrainingChoice(Dataset):
    """Which model, and how it is trained."""

    planner: str = _flag("--planner", help=_PLANNER_HELP, default="default")
    recipe: str = _flag("--recipe", help=_RECIPE_HELP, default="default", metavar="NAME|FILE")
    settings: tuple[str, ...] = _flag(
        "--set", help=_SET_HELP, default=(), nargs="+", action="extend", metavar="KEY=VALUE"
    )
    time_budget: float | None = _flag(
        "--time-budget", help=_BUDGET_HELP, type=duration, metavar="TIME"
    )
    overwrite: bool = _flag(
        "--overwrite", help="replace a fold already trained", default=False, action="store_true"
    )
    pretrained: Path | None = _flag(
        "--pretrained",
        help="begin with the weights of a trained model: its folder, MODEL/fold_N, or a .pt in it",
        type=Path,
        metavar="MODEL",
    )


@dataclass(frozen=True, kw_only=True)
class Train(TrainingChoice):
    """Train one fold of one configuration."""

    configuration: str = _flag(help=_CONFIG_HELP, metavar="CONFIG")
    fold: str = _flag(
        "--fold",
        help="0 to 4, or all; beyond: a random 80:20 split (default 0)",
        default="0",
        type=fold,
        metavar="FOLD",
    )
    resume: bool = _flag("--resume", help="go on from last.pt", default=False, action="store_true")


@dataclass(frozen=True, kw_only=True)
class Predict(Common):
    """Segment images with a trained model."""

    inputs: tuple[Path, ...] = _flag(
        "-i",
        "--input",
        help="folder, file or files",
        nargs="+",
        type=Path,
        required=True,
        metavar="IN",
    )
    output: Path = _flag("-o", "--output", help="folder", type=Path, required=True, metavar="OUT")
    model: Path | None = _flag("-m", "--model", help="model folder", type=Path, metavar="MODEL")
    dataset: str | None = _flag("-d", "--dataset", help=_DATASET_HELP, metavar="DATASET")
    configuration: str | None = _flag("-c", "--configuration", help=_CONFIG_HELP, metavar="CONFIG")
    planner: str = _flag("--planner", help=_PLANNER_HELP, default="default")
    recipe: str | None = _flag("--recipe", help="recipe the model was trained with", metavar="NAME")
    folds: tuple[str, ...] = _flag(
        "--folds", help="folds to average (default: all trained)", nargs="+", default=(), type=fold
    )
    checkpoint: str = _flag(
        "--checkpoint",
        help="final, best or last",
        default="final",
        choices=("final", "best", "last"),
    )
    no_tta: bool = _flag(
        "--no-tta", help="do not average over mirrored images", default=False, action="store_true"
    )
    step: float = _flag(
        "--step", help="tile step as a share of the patch (default 0.5)", default=0.5, type=float
    )
    precision: PrecisionName = _flag(
        "--precision",
        help="auto (fp16 on CUDA, bf16 where the CPU has it), fp32, bf16 or fp16",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    engine: str = _flag(
        "--engine",
        help="what runs the network: torch, or openvino (faster on CPUs; pip install "
        "'segkit[openvino]')",
        default="torch",
        choices=("torch", "openvino"),
    )
    save_probabilities: bool = _flag(
        "--save-probabilities",
        help="also write CASE.npz with the probabilities",
        default=False,
        action="store_true",
    )


@dataclass(frozen=True, kw_only=True)
class Evaluate(Common):
    """Compare predicted with reference label maps; prints a table, writes summary and report."""

    predictions: Path = _flag(
        "-p", "--predictions", help="folder", type=Path, required=True, metavar="PRED"
    )
    references: Path = _flag(
        "-r", "--references", help="folder", type=Path, required=True, metavar="REF"
    )
    description: Path = _flag(
        "-d",
        "--dataset-json",
        help="dataset.json of the dataset; that of a model evaluates only what the model predicts",
        type=Path,
        required=True,
        metavar="DATASET_JSON",
    )
    output: Path | None = _flag(
        "-o", "--output", help="folder for the reports (default PRED)", type=Path, metavar="OUT"
    )
    metrics: tuple[str, ...] = _flag(
        "--metrics",
        help="dice iou precision recall hd95_mm assd_mm nsd volume_ref_ml volume_pred_ml lesion_tp "
        "lesion_fp lesion_fn lesion_precision lesion_recall lesion_f1 (default: all but distances "
        "and lesions)",
        default=(),
        nargs="+",
    )
    nsd_tolerance_mm: float = _flag(
        "--nsd-tolerance-mm", help="tolerance of nsd (default 1)", default=1.0, type=float
    )
    absent_score: float | None = _flag(
        "--absent-score",
        help="score (0 to 1) of a target that is in neither reference nor prediction, e.g. 1 for "
        "correctly empty (default: n/a, left out of the means)",
        type=float,
        metavar="X",
    )
    masks: Path | None = _flag(
        "--masks",
        help="folder of CASE.ext; only where they are not 0 is evaluated (default: masksTr of the "
        "dataset, where PRED is compared with its labelsTr)",
        type=Path,
        metavar="DIR",
    )


@dataclass(frozen=True, kw_only=True)
class Run(TrainingChoice):
    """Everything in one go: validate, plan, preprocess, train all folds, cross-validate.

    Folds that are trained already are kept; one that was interrupted goes on.
    """

    configuration: str | None = _flag(
        "-c",
        "--configuration",
        help="2d or 3d_fullres (default: 3d_fullres where it is planned)",
        metavar="CONFIG",
    )
    folds: tuple[str, ...] = _flag(
        "--folds", help="folds to train (default: all)", nargs="+", default=(), type=fold
    )
    min_cases: int = _min_cases()
    time_budget: float | None = _flag(
        "--time-budget", help="train each fold this long, e.g. 30m", type=duration, metavar="TIME"
    )


@dataclass(frozen=True, kw_only=True)
class Demo(Common):
    """Make a small dataset, then plan, preprocess, train, predict and evaluate on it.

    The dataset lies in raw/Dataset999_Demo of the work folder, where other commands find it.
    """

    workdir: Path = _workdir("segkit_demo")
    time_budget: float = _flag(
        "--time-budget", help=_BUDGET_HELP, default=240.0, type=duration, metavar="TIME"
    )


@dataclass(frozen=True, kw_only=True)
class Doctor(Common):
    """Show what this machine offers segkit: versions, devices, memory, and what is missing."""
