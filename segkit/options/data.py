"""Options of the commands before training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segkit.options.common import PLANNER_HELP, Dataset, flag, min_cases_flag


@dataclass(frozen=True, kw_only=True)
class Validate(Dataset):
    """Check a dataset: every problem of dataset.json and of all cases, in one run."""

    json: bool = flag("--json", help="print the report as JSON", default=False, action="store_true")
    fix: Path | None = flag(
        "--fix",
        help="write a copy with everything mended that has one certain mend, and check that",
        type=Path,
        metavar="OUT",
    )


@dataclass(frozen=True, kw_only=True)
class Plan(Dataset):
    """Measure the training images and plan spacing, patch, batch and network; says why."""

    configurations: tuple[str, ...] = flag(
        "-c", "--configurations", help="which to prepare (default: all)", default=(), nargs="+"
    )
    planner: str = flag("--planner", help=PLANNER_HELP, default="default")
    gpu_memory_gb: float | None = flag(
        "--gpu-memory-gb", help="plan for this much GPU memory", type=float, metavar="G"
    )
    spacing: tuple[float, ...] | None = flag(
        "--spacing", help="target spacing in mm", type=float, nargs=3, metavar=("Z", "Y", "X")
    )
    min_cases: int = min_cases_flag()


@dataclass(frozen=True, kw_only=True)
class Preprocess(Dataset):
    """Crop, normalise and resample the training cases as planned; redoes only what changed."""

    configurations: tuple[str, ...] = flag(
        "-c", "--configurations", help="which to prepare (default: all)", default=(), nargs="+"
    )
    planner: str = flag("--planner", help=PLANNER_HELP, default="default")


@dataclass(frozen=True, kw_only=True)
class PlanAndPreprocess(Plan):
    """Plan, then preprocess."""
