"""Cross-validation folds: the same as nnU-Net's for the same cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segkit.errors import UserError
from segkit.files import content_hash, file_hash, read_artifact, read_json, write_artifact
from segkit.runtime import log

SPLITS_VERSION = 1
SEED = 12345
"""nnU-Net's seed, for the folds and for random splits beyond them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Case ids to train on and to validate on, both sorted."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def make_splits(case_ids: Sequence[str], folds: int = 5) -> tuple[Split, ...]:
    """Deal the sorted cases into folds, as scikit-learn's shuffled ``KFold`` does.

    With fewer cases than folds every case is a fold of its own. A single case is trained and
    validated on itself; a warning says that this measures nothing.
    """
    ids = sorted(case_ids)
    if len(ids) == 1:
        log.warning("only one case: it is trained on and validated on; its scores mean nothing")
        return (Split(train=tuple(ids), val=tuple(ids)),)
    if len(ids) < folds:
        log.warning("only %d cases: %d folds of one case each", len(ids), len(ids))
    order = np.arange(len(ids))
    np.random.RandomState(SEED).shuffle(order)
    parts = np.array_split(order, min(folds, len(ids)))
    return tuple(_split(ids, {ids[i] for i in part}) for part in parts)


def _split(ids: Sequence[str], val: set[str]) -> Split:
    return Split(train=tuple(i for i in ids if i not in val), val=tuple(i for i in ids if i in val))


def split_for_fold(
    splits: Sequence[Split], fold: int | Literal["all"], case_ids: Sequence[str]
) -> Split:
    """Return the split of a fold.

    ``"all"`` trains and validates on everything. A fold beyond the splits is nnU-Net's random
    80:20 split with a seed of its own.

    Raises:
        UserError: the fold is negative, or there are too few cases for a random split.
    """
    ids = sorted(case_ids)
    if fold == "all":
        return Split(train=tuple(ids), val=tuple(ids))
    if fold < 0:
        fix = f"use 0 to {len(splits) - 1}, or all"
        raise UserError(f"there is no fold {fold}", where="--fold", fix=fix)
    if fold < len(splits):
        return splits[fold]
    count = int(0.8 * len(ids))
    if count < 1:
        what = f"{len(ids)} case is too few for a random 80:20 split (fold {fold})"
        raise UserError(what, where="--fold", fix="train with --fold all, or add cases")
    log.warning("fold %d is beyond the %d splits: a random 80:20 split", fold, len(splits))
    train = np.random.RandomState(SEED + fold).choice(len(ids), count, replace=False)
    return _split(ids, set(ids) - {ids[i] for i in train})


def save_splits(path: Path, splits: Sequence[Split], made_from: str) -> None:
    """Write ``splits.json``; ``made_from`` is the hash of the cases they were made from."""
    folds = [{"train": list(split.train), "val": list(split.val)} for split in splits]
    write_artifact(path, {"folds": folds}, version=SPLITS_VERSION, made_from=made_from)


def load_splits(path: Path, case_ids: Sequence[str]) -> tuple[Split, ...]:
    """Read ``splits.json``, or nnU-Net's ``splits_final.json`` (a bare list).

    Raises:
        UserError: malformed; unknown cases; a case in both parts of a fold; or segkit's own
            splits are stale, that is, do not hold all of today's cases.
    """
    content = read_json(path)
    own = isinstance(content, dict)
    folds = read_artifact(path, version=SPLITS_VERSION).get("folds") if own else content
    if not isinstance(folds, list) or not folds:
        fix = 'write [{"train": [ids], "val": [ids]}, ...]'
        raise UserError("expected a list of folds", where=path, fix=fix)
    splits = tuple(_parse_fold(fold, f"{path}, fold {i}") for i, fold in enumerate(folds))
    _check_cases(splits, set(case_ids), path, own=own)
    return splits


def _parse_fold(fold: Any, where: str) -> Split:
    fix = 'write {"train": [ids], "val": [ids]}, both non-empty and without a case in common'
    parts = [fold.get(key) for key in ("train", "val")] if isinstance(fold, dict) else []
    for part in parts:
        if not isinstance(part, list) or not part or not all(isinstance(i, str) for i in part):
            raise UserError("train or val is missing, empty or malformed", where=where, fix=fix)
    if not parts:
        raise UserError(f"expected keys and values, got {fold!r}", where=where, fix=fix)
    train, val = set(fold["train"]), set(fold["val"])
    if (common := sorted(train & val)) and len(train | val) > 1:
        raise UserError(f"in train and in val: {', '.join(common[:5])}", where=where, fix=fix)
    return Split(train=tuple(sorted(train)), val=tuple(sorted(val)))


def _check_cases(splits: Sequence[Split], known: set[str], path: Path, *, own: bool) -> None:
    used = {case for split in splits for case in (*split.train, *split.val)}
    fix = "delete the file to have new splits made, or correct it"
    if unknown := sorted(used - known):
        listing = f"{', '.join(unknown[:5])} ({len(unknown)} in all)"
        raise UserError(f"the splits name unknown cases: {listing}", where=path, fix=fix)
    if unused := sorted(known - used):
        listing = f"{', '.join(unused[:5])} ({len(unused)} in all)"
        if own:
            raise UserError(f"stale: cases in no fold: {listing}", where=path, fix=fix)
        log.warning("%s: cases in no fold are not used: %s", path, listing)


def load_or_make_splits(path: Path, given: Path, case_ids: Sequence[str]) -> tuple[Split, ...]:
    """Read the splits of a workspace; where there are none, take the user's or deal new ones.

    Splits that segkit dealt from other cases are dealt anew, with a warning.

    Args:
        path: ``splits.json`` of the workspace.
        given: ``splits_final.json`` of the raw dataset, used where it exists.
        case_ids: Today's training cases.

    Raises:
        UserError: a file that does not fit the cases.
    """
    if given.is_file():
        splits, made_from = load_splits(given, case_ids), file_hash(given)
    else:
        splits, made_from = make_splits(case_ids), content_hash(sorted(case_ids))
    if path.is_file():
        if read_artifact(path, version=SPLITS_VERSION)["made_from"] == made_from:
            return load_splits(path, case_ids)
        log.warning("%s: the cases or the given splits changed; folds are dealt anew", path)
    save_splits(path, splits, made_from)
    return splits
