"""The previous stage inside a cascade's model folder, so that the folder predicts by itself.

A cascade carries the very weights it was trained on the predictions of. Where its previous stage
is trained again, the two no longer belong together: folds to come are refused, not mixed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from segkit.checkpoint import checkpoint_hash
from segkit.errors import UserError, listing
from segkit.files import atomic_folder, file_hash
from segkit.inference.model import PREVIOUS_STAGE, train_anew
from segkit.inference.model_copy import OF_THE_MODEL, link_model


def bundle_previous(
    model: Path, source: Path, folds: Sequence[str], *, replaced: Collection[str]
) -> None:
    """Put folds of a previous stage into the folder of a cascade; what is there already stays.

    Args:
        model: Folder of the cascade.
        source: Model folder of the previous stage.
        folds: Those that predict for the cascade: numbers, or ``all`` alone.
        replaced: Folder names of folds of the cascade that are to be trained anew; where they
            learned from other weights, their checkpoints are deleted.

    Raises:
        UserError: other folds of the cascade were trained on predictions of other weights.
    """
    target = model / PREVIOUS_STAGE
    same_model = _same_model(source, target)
    if same_model and all(_same_fold(source, target, fold) for fold in folds):
        return
    learned = [path for path in sorted(model.glob("fold_*/*.pt")) if target.is_dir()]
    if same_model:
        kind = list(folds) == ["all"]
        learned = [path for path in learned if (path.parent.name == "fold_all") == kind]
    if begun := {path.parent.name for path in learned} - set(replaced):
        what = f"{listing(sorted(begun))} of this cascade learned from another previous stage, "
        what += f"which was trained again since: {source}"
        raise UserError(what, where=model, fix=train_anew(begun))
    for path in learned:
        path.unlink()
    with atomic_folder(target) as draft:
        link_model(source, draft, folds)
        others = [path.name.removeprefix("fold_") for path in target.glob("fold_*")]
        if same_model:
            link_model(target, draft, [fold for fold in others if fold not in folds])


def _same_fold(source: Path, target: Path, fold: str) -> bool:
    before, now = (folder / f"fold_{fold}" / "final.pt" for folder in (target, source))
    return before.is_file() and checkpoint_hash(before) == checkpoint_hash(now)


def _same_model(source: Path, target: Path) -> bool:
    pairs = [(target / name, source / name) for name in OF_THE_MODEL]
    return all(a.is_file() and file_hash(a) == file_hash(b) for a, b in pairs)
