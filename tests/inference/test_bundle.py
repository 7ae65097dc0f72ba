"""A cascade carries the weights it learned from, and no others."""

import pytest

from segkit.errors import UserError
from segkit.inference.bundle import bundle_previous
from segkit.inference.model import PREVIOUS_STAGE

NUMBERS = ["0", "1"]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    # As checkpoints are written: under another name first.
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "default_3d_lowres"
    for name in ("model.json", "plan.json", "dataset.json"):
        write(folder / name, name)
    for fold in (*NUMBERS, "all"):
        write(folder / f"fold_{fold}" / "final.pt", f"weights {fold}")
        write(folder / f"fold_{fold}" / "best.pt", "not needed")
        write(folder / f"fold_{fold}" / "recipe.json", "{}")
    return folder


@pytest.fixture
def cascade(tmp_path):
    return tmp_path / "default_3d_cascade_fullres"


def bundle(cascade, source, folds=NUMBERS, replaced=()):
    bundle_previous(cascade, source, folds, replaced=replaced)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_what_predicts_is_carried(cascade, source):
    bundle(cascade, source)
    of_folds = {f"fold_{fold}/{name}" for fold in NUMBERS for name in ("final.pt", "recipe.json")}
    carried = cascade / PREVIOUS_STAGE
    assert files(carried) == {"model.json", "plan.json", "dataset.json"} | of_folds
    assert [path.name for path in cascade.iterdir()] == [PREVIOUS_STAGE]
    assert (carried / "fold_1/final.pt").samefile(source / "fold_1/final.pt")


def test_what_is_trained_again_does_not_change_what_is_carried(cascade, source):
    bundle(cascade, source)
    write(source / "fold_1/final.pt", "other weights")
    assert (cascade / PREVIOUS_STAGE / "fold_1/final.pt").read_text() == "weights 1"


def test_the_same_again_changes_nothing(cascade, source):
    bundle(cascade, source)
    before = (cascade / PREVIOUS_STAGE).stat()
    write(cascade / "fold_0/final.pt", "learned")
    # The same bytes in other files, as in a copy.
    write(source / "fold_0/final.pt", "weights 0")
    bundle(cascade, source)
    assert (cascade / PREVIOUS_STAGE).stat().st_ino == before.st_ino


def test_other_weights_are_refused_once_a_fold_learned_from_these(cascade, source):
    bundle(cascade, source)
    write(cascade / "fold_0/last.pt", "learning")
    write(cascade / "fold_1/final.pt", "learned")
    write(source / "fold_1/final.pt", "other weights")
    with pytest.raises(UserError, match="fold_0, fold_1 of this cascade learned from another"):
        bundle(cascade, source)
    with pytest.raises(UserError, match="fold_1 of this cascade"):
        bundle(cascade, source, replaced=["fold_0"])
    assert (cascade / PREVIOUS_STAGE / "fold_1/final.pt").read_text() == "weights 1"
    assert (cascade / "fold_0/last.pt").exists()


def test_folds_that_are_trained_anew_give_way(cascade, source):
    bundle(cascade, source)
    write(cascade / "fold_0/final.pt", "learned")
    write(source / "fold_1/final.pt", "other weights")
    bundle(cascade, source, replaced=["fold_0"])
    assert (cascade / PREVIOUS_STAGE / "fold_1/final.pt").read_text() == "other weights"
    # It would go on predicting with weights it did not learn from.
    assert not (cascade / "fold_0/final.pt").exists()


def test_folds_on_all_cases_stand_apart(cascade, source):
    bundle(cascade, source)
    write(cascade / "fold_0/final.pt", "learned")
    bundle(cascade, source, folds=["all"])
    carried = cascade / PREVIOUS_STAGE
    assert {path.name for path in carried.glob("fold_*")} == {"fold_0", "fold_1", "fold_all"}
    write(source / "fold_all/final.pt", "other weights")
    bundle(cascade, source, folds=["all"])
    assert (carried / "fold_all/final.pt").read_text() == "other weights"
    assert (carried / "fold_0/final.pt").read_text() == "weights 0"
    # Another plan concerns all folds.
    write(source / "plan.json", "another plan")
    with pytest.raises(UserError, match="fold_0 of this cascade"):
        bundle(cascade, source, folds=["all"])


def test_where_files_cannot_be_linked_they_are_copied(cascade, source, monkeypatch):
    def refuse(*_):
        raise OSError("not on this file system")

    monkeypatch.setattr("os.link", refuse)
    bundle(cascade, source)
    copy = cascade / PREVIOUS_STAGE / "fold_0/final.pt"
    assert copy.read_text() == "weights 0"
    assert not copy.samefile(source / "fold_0/final.pt")
