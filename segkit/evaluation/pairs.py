"""Which prediction belongs to which reference."""

from __future__ import annotations

from pathlib import Path

from segkit.errors import UserError
from segkit.evaluation.case import CasePair


def pair_files(
    pred_dir: Path, ref_dir: Path, ending: str
) -> tuple[list[CasePair], tuple[str, ...]]:
    """Match predictions and references by file name; other files are left alone.

    Returns:
        The pairs, sorted by case, and the cases that have a reference and no prediction.

    Raises:
        UserError: no such folder, no prediction, or predictions without a reference.
    """
    predictions, references = _files(pred_dir, ending), _files(ref_dir, ending)
    if not predictions:
        fix = f"give a folder with files named CASE{ending}"
        raise UserError(f"no prediction ends in {ending}", where=pred_dir, fix=fix)
    if unmatched := sorted(predictions.keys() - references.keys()):
        raise UserError(
            f"{len(unmatched)} of {len(predictions)} predictions have no reference: "
            f"{', '.join(unmatched)}",
            where=ref_dir,
            fix=f"add CASE{ending} to the references, or take the predictions away",
        )
    pairs = [
        CasePair(case=case, pred=path, ref=references[case]) for case, path in predictions.items()
    ]
    return pairs, tuple(sorted(references.keys() - predictions.keys()))


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Map case to file, sorted by case; hidden files are none."""
    if not folder.is_dir():
        raise UserError("no such folder", where=folder, fix="check the path")
    return {
        path.name.removesuffix(ending): path
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending) and not path.name.startswith(".") and path.is_file()
    }
