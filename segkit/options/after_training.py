"""Options of the commands that judge trained models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segkit.options.common import (
    CONFIG_HELP,
    Dataset,
    allow_code_flag,
    checkpoint_flag,
    flag,
    fold,
    folds_flag,
    plan_flag,
)


@dataclass(frozen=True, kw_only=True)
class Crossval(Dataset):
    """Predict and score the cases that trained folds have not seen, whole images at a time.

    What the same weights predicted before is kept. The scores of all folds together lie in
    MODEL/crossval, those of each in MODEL/fold_N/validation.
    """

    configuration: str = flag(help=CONFIG_HELP, metavar="CONFIG")
    planner: str = plan_flag()
    recipe: str | None = flag("--recipe", help="recipe the model was trained with", metavar="NAME")
    folds: tuple[str, ...] = folds_flag("folds to validate")
    checkpoint: str = checkpoint_flag("; those of best go to validation_best and crossval_best")
    allow_code: tuple[str, ...] = allow_code_flag()


@dataclass(frozen=True, kw_only=True)
class FindBest(Dataset):
    """Compare all trained models, and all pairs of them, by cross-validation.

    What is missing of it is computed. The best, with the post-processing that helps it, goes to a
    folder that predicts: WORKDIR/DATASET/best.
    """

    configurations: tuple[str, ...] = flag(
        "-c", "--configurations", help="of these only (default: all)", nargs="+", default=()
    )
    planners: tuple[str, ...] = flag(
        "--planners",
        "--plan-names",
        help="of these plans only (default: all)",
        nargs="+",
        default=(),
        metavar="NAME",
    )
    recipes: tuple[str, ...] = flag(
        "--recipes", help="of these recipes only (default: all)", nargs="+", default=()
    )
    folds: tuple[str, ...] = flag(
        "--folds", help="folds to compare (default: all)", nargs="+", default=(), type=fold
    )
    no_ensembles: bool = flag(
        "--no-ensembles", help="no pairs of models", default=False, action="store_true"
    )
    output: Path | None = flag(
        "-o", "--output", help="folder for the best", type=Path, metavar="OUT"
    )
    allow_code: tuple[str, ...] = allow_code_flag()
