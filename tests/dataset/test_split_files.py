import json

import pytest

from segkit.dataset.split_files import check_splits, load_folds, load_splits, save_folds
from segkit.dataset.splits import Folds, SplitRequest, make_splits
from segkit.errors import UserError

IDS = [f"case_{i:02d}" for i in range(12)]


def test_saved_folds_come_back(tmp_path):
    request = SplitRequest(num_folds=3, group_by="^.", stratify=("site", "labels"), table="/t.csv")
    groups = {"p": ("case_00", "case_01"), "q": ("case_02",)}
    folds = Folds(splits=make_splits(IDS), request=request, groups=groups, made_from="abc")
    path = tmp_path / "splits.json"
    save_folds(path, folds)
    assert load_folds(path, IDS) == load_folds(path, None) == folds
    assert load_splits(path, IDS) == folds.splits
    single = Folds(splits=make_splits(["a"]), made_from="x")
    save_folds(path, single)
    assert load_folds(path, ["a"]) == single


def test_files_of_earlier_versions_were_dealt_plainly(tmp_path, caplog):
    path = tmp_path / "splits.json"
    folds = Folds(splits=make_splits(IDS), made_from="abc")
    save_folds(path, folds)
    content = json.loads(path.read_text())
    del content["request"], content["groups"]
    path.write_text(json.dumps(content))
    assert load_folds(path, IDS) == folds
    with pytest.raises(UserError, match="unknown cases: case_11"):
        load_folds(path, IDS[:11])
    assert load_folds(path, None) == folds
    assert not caplog.text
    path.write_text(json.dumps(content | {"request": {"sead": 3}}))
    with pytest.raises(UserError, match="did you mean 'seed'"):
        load_folds(path, IDS)
    path.write_text(json.dumps(content | {"groups": {"p": "case_00"}}))
    with pytest.raises(UserError, match="expected a list"):
        load_folds(path, IDS)


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


def test_what_is_suspicious_is_told(tmp_path, caplog):
    path = tmp_path / "splits_final.json"
    folds = [{"train": ["a"], "val": ["b", "c"]}, {"train": ["b", "b"], "val": ["a", "c"]}]
    path.write_text(json.dumps(folds))
    assert [found.code for found in check_splits(path, "abc")] == ["SK-F032"]
    assert load_splits(path, "abc")[1].train == ("b",)
    assert "1 cases validate more than one fold: c" in caplog.text
    path.write_text(json.dumps([{"train": ["a.nii.gz"], "val": ["b_0000.nii.gz"]}]))
    with pytest.raises(UserError, match="without channel number and file ending"):
        load_splits(path, "ab")
