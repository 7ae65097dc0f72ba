import json

import pytest

from segkit.dataset.splits import (
    check_splits,
    load_or_make_splits,
    load_splits,
    make_splits,
    save_splits,
    split_for_fold,
)
from segkit.errors import UserError

IDS = [f"case_{i:02d}" for i in range(12)]


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


def test_one_case_is_its_own_validation_and_warns(tmp_path, caplog):
    splits = make_splits(["a"])
    assert [(split.train, split.val) for split in splits] == [(("a",), ("a",))]
    assert "only one case" in caplog.text
    save_splits(tmp_path / "splits.json", splits, made_from="abc")
    assert load_splits(tmp_path / "splits.json", ["a"]) == splits


def test_splits_are_kept_until_the_cases_change(tmp_path, caplog):
    path, given = tmp_path / "splits.json", tmp_path / "splits_final.json"
    first = load_or_make_splits(path, given, IDS)
    assert first == make_splits(IDS)
    written = path.read_bytes()
    assert load_or_make_splits(path, given, IDS) == first
    assert path.read_bytes() == written
    assert load_or_make_splits(path, given, IDS[:9]) == make_splits(IDS[:9])
    assert "dealt anew" in caplog.text


def test_given_splits_come_first(tmp_path):
    given = tmp_path / "splits_final.json"
    given.write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    (split,) = load_or_make_splits(tmp_path / "splits.json", given, ["a", "b"])
    assert (split.train, split.val) == (("a",), ("b",))


def test_fold_all_is_everything():
    split = split_for_fold(make_splits(IDS), "all", IDS)
    assert split.train == split.val == tuple(IDS)


def test_fold_beyond_the_splits_is_80_to_20_and_repeatable():
    splits = make_splits(IDS)
    split = split_for_fold(splits, 7, IDS)
    assert (len(split.train), len(split.val)) == (9, 3)
    assert set(split.train) | set(split.val) == set(IDS)
    assert split == split_for_fold(splits, 7, list(reversed(IDS)))
    assert split != split_for_fold(splits, 8, IDS)


def test_negative_fold_is_refused():
    with pytest.raises(UserError, match="no fold -1"):
        split_for_fold(make_splits(IDS), -1, IDS)


def test_saved_splits_come_back(tmp_path):
    splits = make_splits(IDS)
    save_splits(tmp_path / "splits.json", splits, made_from="abc")
    assert load_splits(tmp_path / "splits.json", IDS) == splits
    assert json.loads((tmp_path / "splits.json").read_text())["made_from"] == "abc"


def test_nnunets_bare_list_is_read(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["b", "a"], "val": ["c"]}]))
    (split,) = load_splits(path, ["a", "b", "c", "d"])
    assert (split.train, split.val) == (("a", "b"), ("c",))


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([], "expected a list of folds"),
        ([{"train": ["a"]}], "missing, empty or malformed"),
        ([{"train": [], "val": ["a"]}], "missing, empty or malformed"),
        ([{"train": ["a", "b"], "val": ["b"]}], "in train and in val: b"),
        ([{"train": ["a"], "val": ["zebra"]}], "unknown cases: zebra"),
        (["a"], "expected keys and values"),
    ],
)
def test_malformed_splits_are_refused(tmp_path, folds, message):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(folds))
    with pytest.raises(UserError, match=message):
        load_splits(path, ["a", "b"])


def test_everything_wrong_with_splits_is_told_at_once(tmp_path):
    path = tmp_path / "splits_final.json"
    folds = [{"train": ["a", "b"], "val": ["b"]}, {"train": ["a"], "val": ["zebra"]}, 7]
    path.write_text(json.dumps(folds))
    found = check_splits(path, ["a", "b"])
    assert [each.code for each in found] == ["SK-F029", "SK-F029", "SK-F030"]
    assert {each.where for each in found} == {str(path)}
    with pytest.raises(UserError) as caught:
        load_splits(path, ["a", "b"])
    assert all(each.message in str(caught.value) for each in found)


def test_other_keys_of_a_fold_have_no_effect(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["a"], "val": ["b"], "test": ["t"]}]))
    assert check_splits(path, ["a", "b"]) == []


def test_given_splits_may_leave_cases_out(tmp_path):
    given, own = tmp_path / "splits_final.json", tmp_path / "splits.json"
    given.write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    first = load_or_make_splits(own, given, ["a", "b", "c"])
    assert load_or_make_splits(own, given, ["a", "b", "c"]) == first
    assert [found.code for found in check_splits(own, ["a", "b", "c"])] == ["SK-F031"]
