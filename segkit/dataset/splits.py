"""Cross-validation folds: nnU-Net's for the same cases, unless asked for otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from segkit.dataset.dealing import Traits, deal_cases, deal_groups
from segkit.errors import UserError
from segkit.runtime import log

SEED = 12345
"""nnU-Net's seed, for the folds and for random splits beyond them."""
_TRAIN_SHARE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Case ids to train on and to validate on, both sorted."""

    train: tuple[str, ...]
    val: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRequest:
    """How folds are to be made; the defaults are nnU-Net's."""

    num_folds: int = 5
    seed: int = SEED
    group_by: str | None = None
    """What keeps cases in one fold; see :func:`segkit.dataset.grouping.groups_of`."""
    stratify: tuple[str, ...] = ()
    """What is balanced over folds: columns of a table, or ``labels``."""
    table: str | None = None
    """File of the table; None: cases.csv of the data set, if there is one."""

    def __post_init__(self) -> None:
        if self.num_folds < 2:
            fix = "give 2 or more; a single model of all cases is train --fold all"
            raise UserError(f"{self.num_folds} is no number of folds", where="--num-folds", fix=fix)
        if not 0 <= self.seed < 2**32:
            what = f"the seed must lie in 0 to 2^32 - 1, got {self.seed}"
            raise UserError(what, where="--split-seed", fix="give another one")

    @property
    def plain(self) -> bool:
        """Whether cases are dealt one by one, whatever they are."""
        return self.group_by is None and not self.stratify


@dataclass(frozen=True, kw_only=True, slots=True)
class Folds:
    """The folds of a data set, and how they were made."""

    splits: tuple[Split, ...]
    request: SplitRequest = SplitRequest()
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Group -> its cases; empty where cases were not grouped."""
    made_from: str = ""
    """Hash of the case ids, or of the splits made by hand."""


def make_splits(case_ids: Sequence[str], folds: int = 5, seed: int = SEED) -> tuple[Split, ...]:
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
    count = min(folds, len(ids))
    return _splits(dict(zip(ids, deal_cases(len(ids), count, seed).tolist(), strict=True)), count)


def make_grouped_splits(
    groups: Mapping[str, str], traits: Traits, request: SplitRequest
) -> tuple[Split, ...]:
    """Deal whole groups into folds of even size and traits; see :func:`deal_groups`.

    With fewer groups than folds every group is a fold of its own, which is warned about.

    Args:
        groups: Case -> group.
        traits: What is to be balanced, of the cases in the order of ``groups``.
        request: Number of folds and seed.

    Raises:
        UserError: all cases are of one group.
    """
    present = len(set(groups.values()))
    if present < 2:
        what = f"all {len(groups)} cases are of one group: there is nothing to validate on"
        raise UserError(what, where="--group-by", fix="use another rule, or train --fold all")
    count = min(request.num_folds, present)
    if count < request.num_folds:
        log.warning("only %d groups: %d folds of one group each", count, count)
    fold_of = deal_groups(groups, traits, count, request.seed)
    return _splits({case: fold_of[group] for case, group in groups.items()}, count)


def _splits(fold_of: Mapping[str, int], folds: int) -> tuple[Split, ...]:
    ids = sorted(fold_of)
    return tuple(_split(ids, {case for case in ids if fold_of[case] == i}) for i in range(folds))


def _split(ids: Sequence[str], val: set[str]) -> Split:
    return Split(train=tuple(i for i in ids if i not in val), val=tuple(i for i in ids if i in val))


def split_for_fold(folds: Folds, fold: int | Literal["all"], case_ids: Sequence[str]) -> Split:
    """Return the split of a fold.

    ``"all"`` trains and validates on everything. A fold beyond the splits is nnU-Net's random
    80:20 split with a seed of its own; groups stay whole in it.

    Raises:
        UserError: the fold is negative, or there are too few cases or groups for a random split.
    """
    ids, splits = sorted(case_ids), folds.splits
    if fold == "all":
        return Split(train=tuple(ids), val=tuple(ids))
    if fold < 0:
        fix = f"use 0 to {len(splits) - 1}, or all"
        raise UserError(f"there is no fold {fold}", where="--fold", fix=fix)
    if fold < len(splits):
        return splits[fold]
    grouped = {case for cases in folds.groups.values() for case in cases}
    units = [*folds.groups.values(), *((case,) for case in ids if case not in grouped)]
    count = int(_TRAIN_SHARE * len(units))
    if count < 1:
        what = f"{len(units)} case is too few for a random 80:20 split (fold {fold})"
        raise UserError(what, where="--fold", fix="train with --fold all, or add cases")
    log.warning("fold %d is beyond the %d splits: a random 80:20 split", fold, len(splits))
    seed = (folds.request.seed + fold) % 2**32
    train = np.random.RandomState(seed).choice(len(units), count, replace=False)
    return _split(ids, set(ids) - {case for i in train for case in units[i]})
