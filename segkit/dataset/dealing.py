"""Dealing cases into folds: as scikit-learn's ``KFold``, or in whole groups and balanced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_STARTS, _SWEEPS = 16, 20
_MOST_WORK = {"starts": 5e7, "sweeps": 1e9}
"""Comparisons of traits of two groups, above which there are fewer of them (of thousands of groups;
a few seconds)."""
_GAIN = 1e-9
"""Smaller improvements are rounding."""
_MOST_VALUES, _QUANTILES = 10, 4


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What is to be even over folds, besides the number of cases."""

    values: np.ndarray
    """(cases, T), none negative: what each case adds to every trait."""
    weights: np.ndarray
    """(T,): how much an uneven trait counts."""

    @classmethod
    def join(cls, several: Sequence[Traits], cases: int) -> Traits:
        """Put traits of the same cases side by side."""
        return cls(
            values=np.hstack([np.zeros((cases, 0)), *(traits.values for traits in several)]),
            weights=np.concatenate([np.zeros(0), *(traits.weights for traits in several)]),
        )


def deal_cases(count: int, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each of ``count`` cases, as scikit-learn's shuffled ``KFold`` deals."""
    order = np.arange(count)
    np.random.RandomState(seed).shuffle(order)
    fold = np.empty(count, dtype=np.int64)
    for i, part in enumerate(np.array_split(order, folds)):
        fold[part] = i
    return fold


def deal_groups(groups: Mapping[str, str], traits: Traits, folds: int, seed: int) -> dict[str, int]:
    """Deal whole groups into folds of even size, with even sums of every trait.

    Sizes come first: no two folds differ by more cases than the largest group has. Within that,
    the sum over folds and traits of the squared relative distance from an even share is lowered by
    moving and swapping groups until neither helps, from several starts. Without groups and with
    one trait for each of several exclusive values, the count of each value then differs by at most
    one between folds, as with scikit-learn's ``StratifiedKFold``.

    Args:
        groups: Case -> group; at least as many groups as folds.
        traits: Of the cases, in the order of ``groups``.
        folds: How many.
        seed: Of the starts.

    Returns:
        Group -> its fold.
    """
    names = list(dict.fromkeys(groups.values()))
    place = {name: i for i, name in enumerate(names)}
    rows = np.array([place[group] for group in groups.values()])
    cases = np.column_stack([np.ones(len(groups)), traits.values])
    sums = np.zeros((len(names), cases.shape[1]))
    np.add.at(sums, rows, cases)
    fold = _assign(sums, np.append(1.0, traits.weights), folds, seed)
    return dict(zip(names, fold.tolist(), strict=True))


def traits_of_values(values: Sequence[str]) -> Traits:
    """Return a trait for every value: 1 where a case has it."""
    names = sorted(set(values))
    present = np.array([[float(value == name) for name in names] for value in values])
    return Traits(values=present, weights=np.ones(len(names)))


def in_quarters(values: Sequence[str]) -> Sequence[str]:
    """Replace numbers of more than ten different values by the quarter of the cases they are in."""
    if len(set(values)) <= _MOST_VALUES:
        return values
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return values
    if not np.isfinite(numbers).all():
        return values
    limits = np.quantile(numbers, np.arange(1, _QUANTILES) / _QUANTILES)
    return [f"quarter {1 + int((number > limits).sum())}" for number in numbers]


def _assign(sums: np.ndarray, weights: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return (G,) the fold of every group; ``sums`` is (G, 1 + T), its cases first."""
    shares = sums.sum(axis=0) / folds
    scaled = sums * np.sqrt(weights) / np.where(shares > 0, shares, 1)
    random = np.random.RandomState(seed)
    best, least = None, np.inf
    work = len(sums) ** 2 * sums.shape[1]
    for _ in range(int(np.clip(_MOST_WORK["starts"] / work, 1, _STARTS))):
        found = _Folds(sums[:, 0], scaled, folds, random.permutation(len(sums)))
        found.fill()
        found.improve(int(np.clip(_MOST_WORK["sweeps"] / work, 2, _SWEEPS)))
        if found.unevenness() < least - _GAIN:
            best, least = found.fold, found.unevenness()
    assert best is not None
    return best


class _Folds:
    """Folds that are being filled: who is where, and what each sums up to."""

    def __init__(
        self, sizes: np.ndarray, scaled: np.ndarray, folds: int, order: np.ndarray
    ) -> None:
        self.sizes = sizes
        self.scaled = scaled
        self.order = order
        self.fold = np.full(len(sizes), -1)
        self.total = np.zeros((folds, scaled.shape[1]))
        self.count = np.zeros(folds)

    def fill(self) -> None:
        """Put the groups, large ones first, where they make least uneven."""
        order = self.order[np.argsort(-self.sizes[self.order], kind="stable")]
        for done, group in enumerate(order):
            empty = np.bincount(self.fold[self.fold >= 0], minlength=len(self.count)) == 0
            left = len(order) - done
            allowed = empty if left <= empty.sum() else self._stays_even(group)
            cost = 2 * self.total @ self.scaled[group]
            target = int(np.where(allowed, cost, np.inf).argmin())
            self._put(group, target)

    def improve(self, sweeps: int) -> None:
        """Move and swap groups as long as it helps."""
        for _ in range(sweeps):
            if not any([self._better_place(group) for group in self.order]):
                return

    def unevenness(self) -> float:
        """Sum of squared relative distances from an even share."""
        return float(np.square(self.total - self.total.mean(axis=0)).sum())

    def _stays_even(self, group: int) -> np.ndarray:
        """Tell the folds that may take a group without being too large."""
        grown = self.count + self.sizes[group] * np.eye(len(self.count))
        even: np.ndarray = np.ptp(grown, axis=1) <= self.sizes.max()
        return even

    def _better_place(self, group: int) -> bool:
        """Give a group the place, alone or in exchange, that lowers the unevenness most."""
        own = self.fold[group]
        others = np.flatnonzero(self.fold != own)
        # A move into a fold is a swap with nothing there.
        alone = (self.fold == own).sum() == 1
        free = np.array([] if alone else [f for f in range(len(self.count)) if f != own], dtype=int)
        change = np.vstack([self.scaled[others], np.zeros((len(free), self.scaled.shape[1]))])
        change = change - self.scaled[group]
        there = np.concatenate([self.fold[others], free]).astype(int)
        apart = self.total[own] - self.total[there]
        gain = 2 * (change * apart).sum(axis=1) + 2 * np.square(change).sum(axis=1)
        moved = np.concatenate([self.sizes[others], np.zeros(len(free))]) - self.sizes[group]
        for choice in np.argsort(gain, kind="stable"):
            if gain[choice] > -_GAIN:
                return False
            if self._may_exchange(own, int(there[choice]), moved[choice]):
                if choice < len(others):
                    self._put(others[choice], own)
                self._put(group, int(there[choice]))
                return True
        return False

    def _may_exchange(self, own: int, other: int, cases: float) -> bool:
        """Whether folds stay of even size when one gains ``cases`` and the other loses them."""
        count = self.count.copy()
        count[own] += cases
        count[other] -= cases
        return bool(np.ptp(count) <= self.sizes.max())

    def _put(self, group: int, fold: int) -> None:
        before = self.fold[group]
        if before >= 0:
            self.total[before] -= self.scaled[group]
            self.count[before] -= self.sizes[group]
        self.fold[group] = fold
        self.total[fold] += self.scaled[group]
        self.count[fold] += self.sizes[group]
