"""Folds of whole groups, of even size and even traits: invariants, and brute force."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.dataset.dealing import Traits, deal_cases, deal_groups, in_quarters, traits_of_values


def deal(group_names, traits=None, folds=5, seed=0):
    """Deal cases 0, 1, ... of these groups; returns the fold of every case."""
    group_names = list(group_names)
    groups = {str(i): name for i, name in enumerate(group_names)}
    traits = Traits.join([] if traits is None else [traits], len(groups))
    fold_of = deal_groups(groups, traits, folds, seed)
    return np.array([fold_of[name] for name in group_names])


def counted(values):
    return Traits(values=np.array(values, dtype=float), weights=np.ones(len(values[0])))


@st.composite
def datasets(draw):
    folds = draw(st.integers(2, 6))
    cases = draw(st.integers(folds, 40))
    groups = draw(st.lists(st.integers(0, cases), min_size=cases, max_size=cases))
    groups[:folds] = [-1 - i for i in range(folds)]
    values = draw(st.lists(st.sampled_from("abcd"), min_size=cases, max_size=cases))
    return [str(g) for g in groups], values, folds, draw(st.integers(0, 2**32 - 1))


@settings(max_examples=40, deadline=None)
@given(datasets())
def test_groups_are_whole_and_sizes_even(dataset):
    groups, values, folds, seed = dataset
    fold = deal(groups, traits_of_values(values), folds, seed)
    assert set(fold) == set(range(folds))  # none is empty
    for group in set(groups):
        assert len({f for f, g in zip(fold, groups, strict=True) if g == group}) == 1
    sizes = np.bincount(fold, minlength=folds)
    assert np.ptp(sizes) <= max(Counter(groups).values())
    assert (deal(groups, traits_of_values(values), folds, seed) == fold).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from("aaaaabbc"), min_size=6, max_size=60),
    st.integers(2, 6),
    st.integers(0, 99),
)
def test_single_cases_are_stratified_as_by_scikit_learn(values, folds, seed):
    fold = deal(map(str, range(len(values))), traits_of_values(values), folds, seed)
    assert np.ptp(np.bincount(fold, minlength=folds)) <= 1
    for value in set(values):
        chosen = fold[[v == value for v in values]]
        assert np.ptp(np.bincount(chosen, minlength=folds)) <= 1


def unevenness(sums, fold, folds):
    """Sum of squared relative distances from an even share; None where a deal is not allowed."""
    total = np.array([sums[fold == i].sum(axis=0) for i in range(folds)])
    if np.ptp(total[:, 0]) > sums[:, 0].max() or len(set(fold)) < folds:
        return None
    used = sums.any(axis=0)
    return float(np.square(total[:, used] / total[:, used].mean(axis=0) - 1).sum())


@pytest.mark.parametrize("seed", range(12))
def test_no_deal_of_few_groups_is_much_better(seed):
    rng = np.random.default_rng(seed)
    count, folds = int(rng.integers(4, 8)), int(rng.integers(2, 4))
    names = np.repeat([f"g{i}" for i in range(count)], rng.integers(1, 4, count))
    traits = rng.integers(0, 3, (len(names), 2))
    found = deal(names.tolist(), counted(traits.tolist()), folds, seed)
    groups = list(dict.fromkeys(names))
    sums = np.array(
        [np.append((names == g).sum(), traits[names == g].sum(axis=0)) for g in groups], dtype=float
    )
    dealt = np.array([found[names == g][0] for g in groups])
    every = (np.array(deal) for deal in itertools.product(range(folds), repeat=count))
    best = min(x for deal in every if (x := unevenness(sums, deal, folds)) is not None)
    assert unevenness(sums, dealt, folds) <= 1.5 * best + 1e-9


def test_what_is_rare_is_spread_first():
    # Two of eight cases have the lesion; the others differ in volume only.
    volumes = [9.0, 1, 2, 3, 4, 5, 6, 7]
    lesion = [1.0, 0, 0, 0, 0, 0, 0, 1]
    traits = Traits(values=np.column_stack([lesion, volumes]), weights=np.array([1.0, 0.2]))
    fold = deal(map(str, range(8)), traits, 2)
    assert fold[0] != fold[7]
    sums = [sum(v for v, f in zip(volumes, fold, strict=True) if f == i) for i in range(2)]
    assert abs(sums[0] - sums[1]) <= 1


def test_other_seeds_deal_otherwise():
    dealt = {tuple(deal(map(str, range(20)), seed=seed)) for seed in range(5)}
    assert len(dealt) > 1


def test_cases_are_dealt_as_by_scikit_learn():
    model_selection = pytest.importorskip("sklearn.model_selection")
    fold = deal_cases(23, 4, 5)
    splits = model_selection.KFold(4, shuffle=True, random_state=5).split(np.zeros(23))
    for i, (_, val) in enumerate(splits):
        np.testing.assert_array_equal(np.flatnonzero(fold == i), val)


def test_numbers_are_taken_by_quarters():
    ages = [str(age) for age in range(1, 13)]
    taken = in_quarters(ages)
    assert taken == [f"quarter {1 + i // 3}" for i in range(12)]
    assert in_quarters(ages[:10]) == ages[:10]
    words = [f"site {i}" for i in range(12)]
    assert in_quarters(words) == words
    assert in_quarters([*ages, "nan"]) == [*ages, "nan"]
