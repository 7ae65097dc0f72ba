"""Options of the commands that train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segkit.options.common import (
    BUDGET_HELP,
    CONFIG_HELP,
    Common,
    Dataset,
    duration,
    flag,
    min_cases_flag,
    plan_flag,
    recipe_flag,
    settings_flag,
    workdir_flag,
)
from segkit.options.common import (
    fold as a_fold,
)
from segkit.options.data import Splitting


@dataclass(frozen=True, kw_only=True)
class TrainingChoice(Dataset):
    """Which model, and how it is trained."""

    planner: str = plan_flag()
    recipe: str = recipe_flag()
    settings: tuple[str, ...] = settings_flag()
    time_budget: float | None = flag(
        "--time-budget", help=BUDGET_HELP, type=duration, metavar="TIME"
    )
    deterministic: bool = flag(
        "--deterministic",
        help="only algorithms that give the same bits every time (slower on a GPU)",
        default=False,
        action="store_true",
    )
    overwrite: bool = flag(
        "--overwrite", help="replace a fold already trained", default=False, action="store_true"
    )
    allow_leaks: bool = flag(
        "--allow-leaks",
        help="train although a fold is validated on images or groups it is trained on",
        default=False,
        action="store_true",
    )
    previous_model: Path | None = flag(
        "--previous-model",
        help="model folder of a cascade's previous stage (default: the one of the same recipe)",
        type=Path,
        metavar="MODEL",
    )
    pretrained: Path | None = flag(
        "--pretrained",
        help="begin with the weights of a trained model: its folder, MODEL/fold_N, or a .pt in it",
        type=Path,
        metavar="MODEL",
    )

    @property
    def all_settings(self) -> tuple[str, ...]:
        """What is set in the recipe, by ``--set`` or by a flag of its own."""
        return (*self.settings, *["deterministic=true"] * self.deterministic)


@dataclass(frozen=True, kw_only=True)
class Train(TrainingChoice):
    """Train one fold of one configuration, or several."""

    configuration: str = flag(help=CONFIG_HELP, metavar="CONFIG")
    fold: str | None = flag(
        "--fold",
        help="0 to 4, or all: one model of all cases; beyond: a random 80:20 split (default 0)",
        type=a_fold,
        metavar="FOLD",
    )
    folds: tuple[str, ...] = flag(
        "--folds",
        help="several folds, or all: every one of them; each in a process of its own",
        nargs="+",
        default=(),
        type=a_fold,
        metavar="FOLD",
    )
    devices: tuple[str, ...] = flag(
        "--devices",
        help="with --folds: train on these at once, a fold on each, e.g. cuda:0 cuda:1",
        nargs="+",
        default=(),
        metavar="DEVICE",
    )
    resume: bool = flag("--resume", help="go on from last.pt", default=False, action="store_true")


@dataclass(frozen=True, kw_only=True)
class Preview(Dataset):
    """Draw the patches that training begins with, as they are and as augmentation makes them.

    The same dataset, recipe and fold give the same picture.
    """

    configuration: str = flag(help=CONFIG_HELP, metavar="CONFIG")
    planner: str = plan_flag()
    fold: str = flag(
        "--fold",
        help="whose training patches (default 0)",
        default="0",
        type=a_fold,
        metavar="FOLD",
    )
    recipe: str = recipe_flag()
    settings: tuple[str, ...] = settings_flag()
    output: Path | None = flag(
        "-o",
        "--output",
        help="the picture (default: previews/ in the dataset's part of the work folder)",
        type=Path,
        metavar="FILE.png",
    )
    patches: int = flag("--patches", help="how many (default 6)", default=6, type=int, metavar="N")


@dataclass(frozen=True, kw_only=True)
class Run(TrainingChoice, Splitting):
    """Everything in one go: validate, plan, preprocess, train all folds, cross-validate.

    Folds that are trained already are kept; one that was interrupted goes on. Of several
    configurations the best, or the best pair, is found in the end, as find_best does.
    """

    configurations: tuple[str, ...] = flag(
        "-c",
        "--configurations",
        help="planned configurations; several are compared in the end (default: 3d_fullres where "
        "there is one)",
        nargs="+",
        default=(),
        metavar="CONFIG",
    )
    fold: str | None = flag(
        "--fold",
        help="all: one model of all cases, without a cross-validation; or a single fold",
        type=a_fold,
        metavar="FOLD",
    )
    folds: tuple[str, ...] = flag(
        "--folds", help="folds to train (default: all of them)", nargs="+", default=(), type=a_fold
    )
    devices: tuple[str, ...] = flag(
        "--devices",
        help="train on these at once, a fold on each, e.g. cuda:0 cuda:1",
        nargs="+",
        default=(),
        metavar="DEVICE",
    )
    min_cases: int | None = min_cases_flag(default=None)
    time_budget: float | None = flag(
        "--time-budget", help="train each fold this long, e.g. 30m", type=duration, metavar="TIME"
    )


@dataclass(frozen=True, kw_only=True)
class Demo(Common):
    """Make a small dataset, then plan, preprocess, train, predict and evaluate on it.

    The dataset lies in raw/Dataset999_Demo of the work folder, where other commands find it.
    """

    workdir: Path = workdir_flag("segkit_demo")
    time_budget: float = flag(
        "--time-budget", help=BUDGET_HELP, default=240.0, type=duration, metavar="TIME"
    )
