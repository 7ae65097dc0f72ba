"""Which fold predicts which case for a cascade, and whose model that is."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from segkit import options as opt
from segkit.dataset.splits import Split
from segkit.errors import UserError
from segkit.workflows import cascade
from segkit.workflows.cascade import PreviousStage, find_source, previous_stage
from segkit.workspace import Workspace


def task_of(fold, split, configuration="3d_cascade_fullres"):
    plan = SimpleNamespace(
        name="default",
        previous_stage=lambda name: "3d_lowres" if "cascade" in name else None,
    )
    return SimpleNamespace(
        plan=plan,
        configuration=configuration,
        split=split,
        fold=fold,
        schema=None,
        recipe=SimpleNamespace(name="mine"),
    )


def splits_of(*vals):
    cases = {case for val in vals for case in val}
    return [Split(train=tuple(sorted(cases - set(val))), val=tuple(val)) for val in vals]


def dealt(fold, splits, split=None):
    split = split or splits[0]
    before = previous_stage(task_of(fold, split), Path("model"), splits)
    return {name: list(cases) for name, cases in before.cases.items()}


def test_every_case_is_predicted_by_the_fold_without_it():
    splits = splits_of("be", "a", "cd")
    assert dealt(0, splits) == {"0": ["b", "e"], "1": ["a"], "2": ["c", "d"]}
    assert dealt(1, splits) == dealt(0, splits)


def test_the_first_of_several_folds_without_a_case_and_many_folds_in_order():
    splits = splits_of("a", "ab", "bc")
    assert dealt(0, splits) == {"0": ["a"], "1": ["b"], "2": ["c"]}
    many = splits_of(*[[f"{i:02d}"] for i in range(12)])
    assert list(dealt(3, many)) == [str(i) for i in range(12)]


def test_folds_without_a_case_of_the_split_are_not_needed():
    splits = splits_of("a", "b", "c")
    part = Split(train=("a",), val=("c",))
    assert dealt(7, splits, part) == {"0": ["a"], "2": ["c"]}


def test_what_is_trained_on_all_cases_goes_with_what_is():
    everything = Split(train=("a", "b"), val=("a", "b"))
    assert dealt("all", splits_of("a", "b"), everything) == {"all": ["a", "b"]}


def test_other_configurations_have_nothing_before_them():
    split = Split(train=("a",), val=("b",))
    assert previous_stage(task_of(0, split, "3d_fullres"), Path("model"), [split]) is None


def test_a_case_that_every_fold_has_seen_is_named():
    split = Split(train=("a", "b"), val=("c",))
    with pytest.raises(UserError, match="no fold leaves out a, b") as caught:
        dealt(0, [split])
    assert "--fold all" in caught.value.fix


def trained(model, *folds):
    for fold in folds:
        (model / f"fold_{fold}").mkdir(parents=True)
        (model / f"fold_{fold}" / "final.pt").touch()
    return model


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A work space, and which models were looked at."""
    looked = []
    monkeypatch.setattr(cascade, "load_model", lambda folder: looked.append(folder))
    monkeypatch.setattr(cascade, "check_stages", lambda *_: None)
    workspace = Workspace(folder=tmp_path / "Dataset001_Toy")
    description = SimpleNamespace(file=tmp_path / "raw" / "dataset.json", folder=tmp_path / "raw")
    dataset = SimpleNamespace(workspace=workspace, description=description)
    before = PreviousStage(
        name="3d_lowres",
        cascade=workspace.model("default", "3d_cascade_fullres", "mine"),
        cases={"0": ["a"], "1": ["b"]},
    )

    def find(**changes):
        options = opt.TrainingChoice(
            dataset="1", workdir=tmp_path / "my work", recipe="mine.yaml", **changes
        )
        task = task_of(0, Split(train=("a",), val=("b",)))
        return find_source(before, dataset, task, options)

    usual = workspace.model("default", "3d_lowres", "mine")
    return SimpleNamespace(find=find, before=before, usual=usual, looked=looked)


def test_the_model_of_the_same_recipe_is_taken(place):
    trained(place.usual, 0, 1)
    assert place.find() == place.usual
    assert place.looked == [place.usual]


def test_the_model_that_is_named_is_taken(place, tmp_path):
    trained(place.usual, 0, 1)
    other = trained(tmp_path / "other", 0, 1)
    assert place.find(previous_model=other) == other


def test_where_the_model_is_gone_the_cascade_carries_it(place):
    trained(place.before.carried, 0, 1)
    assert place.find() == place.before.carried
    # A model that is there, but not trained to the end, is not gone.
    trained(place.usual, 0)
    with pytest.raises(UserError, match="whose fold 1 is not trained"):
        place.find()


def test_what_to_type_is_told_with_the_options_given(place, tmp_path):
    with pytest.raises(UserError, match="whose folds 0, 1 are not trained") as caught:
        place.find(settings=("epochs=3",), planner="resenc_m")
    assert caught.value.where == place.usual
    same = f"-w '{tmp_path / 'my work'}' --recipe mine.yaml --planner resenc_m --set epochs=3"
    raw = tmp_path / "raw"
    assert caught.value.fix == (
        f"segkit train {raw} 3d_lowres --fold 0 {same} (and --fold 1); or all at once: "
        f"segkit run {raw} -c 3d_cascade_fullres {same}"
    )
