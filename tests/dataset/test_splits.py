import pytest

from segkit.dataset.dealing import Traits
from segkit.dataset.splits import (
    Folds,
    SplitRequest,
    make_grouped_splits,
    make_splits,
    split_for_fold,
)
from segkit.errors import UserError

IDS = [f"case_{i:02d}" for i in range(12)]
FOLDS = Folds(splits=make_splits(IDS))


def test_folds_are_those_of_nnunet():
    # Computed with scikit-learn's KFold(5, shuffle=True, random_state=12345).
    expected = [{0, 3, 8}, {7, 10, 11}, {6, 9}, {1, 4}, {2, 5}]
    splits = make_splits(reversed(IDS))
    assert [set(split.val) for split in splits] == [{IDS[i] for i in fold} for fold in expected]
    for split in splits:
        assert set(split.train) == set(IDS) - set(split.val)
        assert list(split.train) == sorted(split.train)


@pytest.mark.parametrize("count", [5, 6, 23, 208])
def test_equals_scikit_learn(count):
    model_selection = pytest.importorskip("sklearn.model_selection")
    ids = [f"{i:04d}" for i in range(count)]
    folds = model_selection.KFold(5, shuffle=True, random_state=12345).split(ids)
    for split, (train, val) in zip(make_splits(ids), folds, strict=True):
        assert split.train == tuple(ids[i] for i in train)
        assert split.val == tuple(ids[i] for i in val)


def test_fewer_cases_than_folds_leave_one_out():
    splits = make_splits(["a", "b", "c"])
    assert sorted(split.val for split in splits) == [("a",), ("b",), ("c",)]


def test_one_case_is_its_own_validation_and_warns(caplog):
    splits = make_splits(["a"])
    assert [(split.train, split.val) for split in splits] == [(("a",), ("a",))]
    assert "only one case" in caplog.text


@pytest.mark.parametrize(("folds", "seed"), [(2, 0), (3, 12345), (10, 7)])
def test_other_folds_and_seeds_are_those_of_scikit_learn(folds, seed):
    model_selection = pytest.importorskip("sklearn.model_selection")
    dealt = model_selection.KFold(folds, shuffle=True, random_state=seed).split(IDS)
    for split, (_, val) in zip(make_splits(IDS, folds, seed), dealt, strict=True):
        assert split.val == tuple(IDS[i] for i in val)


def test_fold_all_is_everything():
    split = split_for_fold(FOLDS, "all", IDS)
    assert split.train == split.val == tuple(IDS)


def test_fold_beyond_the_splits_is_80_to_20_and_repeatable():
    split = split_for_fold(FOLDS, 7, IDS)
    assert (len(split.train), len(split.val)) == (9, 3)
    assert set(split.train) | set(split.val) == set(IDS)
    assert split == split_for_fold(FOLDS, 7, list(reversed(IDS)))
    assert split != split_for_fold(FOLDS, 8, IDS)


def test_negative_fold_is_refused():
    with pytest.raises(UserError, match="no fold -1"):
        split_for_fold(FOLDS, -1, IDS)


def test_random_splits_beyond_the_folds_keep_groups_whole():
    groups = {"p": tuple(IDS[:5]), "q": tuple(IDS[5:7]), "r": tuple(IDS[7:9])}
    folds = Folds(splits=make_splits(IDS), groups=groups)
    seen = set()
    for fold in range(5, 40):
        split = split_for_fold(folds, fold, IDS)
        assert sorted(split.train + split.val) == IDS
        for cases in groups.values():
            assert set(cases) <= set(split.train) or set(cases) <= set(split.val)
        seen.add(split.val)
    assert len(seen) > 5


def test_folds_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="1 is no number of folds"):
        SplitRequest(num_folds=1)
    with pytest.raises(UserError, match="seed"):
        SplitRequest(seed=-1)
    none = Traits.join([], 3)
    with pytest.raises(UserError, match="all 3 cases are of one group"):
        make_grouped_splits(dict.fromkeys("abc", "p"), none, SplitRequest(group_by="x"))


def test_fewer_groups_than_folds(caplog):
    groups = {"a": "p", "b": "q", "c": "p", "d": "q"}
    splits = make_grouped_splits(groups, Traits.join([], 4), SplitRequest(group_by="x"))
    assert sorted(split.val for split in splits) == [("a", "c"), ("b", "d")]
    assert "only 2 groups" in caplog.text
