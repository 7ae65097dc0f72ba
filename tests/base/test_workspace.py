"""Finding a dataset by path, name or number."""

import pytest

from segkit.dataset.description import dataset_name
from segkit.errors import UserError
from segkit.workspace import Workspace, find_dataset


@pytest.fixture
def raw(tmp_path):
    for name in ("Dataset004_Hippocampus", "Dataset010_Colon", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "Dataset004_Hippocampus" / "dataset.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("name", ["4", "004", "Dataset004", "Dataset004_Hippocampus"])
def test_by_name_or_number(raw, name):
    assert find_dataset(name, [raw]).name == "Dataset004_Hippocampus"


def test_by_path(raw):
    folder = raw / "Dataset004_Hippocampus"
    assert find_dataset(str(folder), []) == folder.resolve()
    assert find_dataset(str(folder / "dataset.json"), []) == (folder / "dataset.json").resolve()


def test_a_number_of_two_datasets_is_refused(raw):
    (raw / "Dataset004_Other").mkdir()
    with pytest.raises(UserError, match="several datasets"):
        find_dataset("4", [raw])


def test_unknown_names_say_where_was_searched(raw):
    with pytest.raises(UserError, match=r"did you mean 'Dataset004_Hippocampus'") as caught:
        find_dataset("Dataset004_Hipocampus", [raw])
    assert str(raw) in str(caught.value)


def test_a_path_is_looked_for_nowhere_else(raw, monkeypatch):
    monkeypatch.chdir(raw)
    (raw / "cases.csv").touch()
    told = {"./nope": "no such folder", f"{raw}/4": "no such folder", "./cases.csv": "is a file"}
    for name, what in told.items():
        with pytest.raises(UserError, match=what) as caught:
            find_dataset(name, [raw])
        assert caught.value.where == name


def test_files_of_a_dataset(tmp_path):
    workspace = Workspace(folder=tmp_path / "D")
    assert workspace.plan("default") == tmp_path / "D" / "plans" / "default.json"
    assert workspace.model("default", "2d", "default").name == "default_2d"
    assert workspace.model("default", "2d", "quick").name == "default_2d_quick"
    assert workspace.preprocessed("default", "2d").name == "default_2d"


def test_a_linked_description_belongs_to_its_folder(raw):
    shared = raw / "notes" / "dataset.json"
    shared.write_text("{}")
    link = raw / "Dataset010_Colon" / "dataset.json"
    link.symlink_to(shared)
    found = find_dataset(str(link), [])
    assert found == link
    assert dataset_name(found) == "Dataset010_Colon"
