"""Cross-validation folds: the same as nnU-Net's for the same cases."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segkit.dataset.description import DatasetDescription
from segkit.dataset.problems import Problem, problem, raise_errors
from segkit.errors import UserError, listing
from segkit.files import content_hash, file_hash, read_artifact, read_json, write_artifact
from segkit.json_text import shown
from segkit.runtime import log

SPLITS_VERSION = 1
_PARTS = ("train", "val")
_NEW_SPLITS = "delete the file to have new splits made, or correct it"
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


def given_splits(description: DatasetDescription) -> Path:
    """Where a user of nnU-Net puts splits made by hand."""
    return description.folder / "splits_final.json"


def load_splits(path: Path, case_ids: Sequence[str]) -> tuple[Split, ...]:
    """Read ``splits.json``, or nnU-Net's ``splits_final.json`` (a bare list).

    Raises:
        UserError: one block with everything malformed, unknown cases and cases in both parts of
            a fold. Cases in no fold are a warning.
    """
    folds = _read_folds(path)
    raise_errors(_check_folds(folds, set(case_ids), path), where=path)
    parts = [[tuple(sorted(set(fold[key]))) for key in _PARTS] for fold in folds]
    return tuple(Split(train=train, val=val) for train, val in parts)


def check_splits(path: Path, case_ids: Collection[str]) -> list[Problem]:
    """Return all that :func:`load_splits` would refuse or warn about."""
    try:
        folds = _read_folds(path)
    except UserError as error:
        fix = error.fix or _NEW_SPLITS
        return [problem("SK-F029", error.what, where=path, fix=fix)]
    return _check_folds(folds, set(case_ids), path)


def _read_folds(path: Path) -> list[Any]:
    """Return the folds as they are written, unchecked."""
    content = read_json(path)
    own = isinstance(content, dict)
    folds = read_artifact(path, version=SPLITS_VERSION).get("folds") if own else content
    if not isinstance(folds, list) or not folds:
        fix = 'write [{"train": [ids], "val": [ids]}, ...]'
        raise UserError("expected a list of folds", where=path, fix=fix)
    return folds


def _check_folds(folds: Sequence[Any], known: set[str], path: Path) -> list[Problem]:
    reasons = [(i, reason) for i, fold in enumerate(folds) if (reason := _reason_against(fold))]
    fix = 'write {"train": [ids], "val": [ids]}, both non-empty and without a case in common'
    malformed = [
        problem("SK-F029", f"fold {i}: {reason}", where=path, fix=fix) for i, reason in reasons
    ]
    used = {case for fold in folds for case in _cases(fold)}
    # A fold that is mended may hold more cases: what none holds is told afterwards.
    unused = set() if malformed else known - used
    return malformed + _check_cases(used - known, unused, path)


def _cases(fold: Any) -> list[str]:
    """List the cases of a fold, as far as it can be understood."""
    parts = [fold.get(key) for key in _PARTS] if isinstance(fold, dict) else []
    lists = (part for part in parts if isinstance(part, list))
    return [case for part in lists for case in part if isinstance(case, str)]


def _reason_against(fold: Any) -> str | None:
    """Say what is wrong with a fold by itself."""
    if not isinstance(fold, dict):
        return f"expected keys and values, got {shown(fold)}"
    parts = [fold.get(key) for key in _PARTS]
    for part in parts:
        if not isinstance(part, list) or not part or not all(isinstance(i, str) for i in part):
            return "train or val is missing, empty or malformed"
    train, val = set(fold["train"]), set(fold["val"])
    common = sorted(train & val)
    return f"in train and in val: {listing(common)}" if common and len(train | val) > 1 else None


def _check_cases(unknown: set[str], unused: set[str], path: Path) -> list[Problem]:
    told = partial(problem, where=path)
    found = []
    if unknown:
        what = f"the splits name unknown cases: {listing(sorted(unknown))} ({len(unknown)} in all)"
        found.append(told("SK-F030", what, fix=_NEW_SPLITS))
    if unused:
        what = f"cases in no fold: {listing(sorted(unused))} ({len(unused)} in all)"
        fix = "fine if they are to be left out; else add them to the folds"
        found.append(told("SK-F031", what, fix=fix))
    return found


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
