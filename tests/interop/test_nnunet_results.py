"""Finding a trained model in nnU-Net's folders."""

import shutil

import pytest
from nnunet_files import write_trained

from segkit.errors import UserError
from segkit.interop.nnunet.results import Choice, find_trained, is_results


@pytest.fixture
def results(tmp_path):
    """Return the results of a data set: two configurations and another trainer."""
    dataset = tmp_path / "results" / "Dataset007_Toy"
    trained = write_trained(dataset, folds=("0", "all"))
    for name in ("nnUNetTrainer__nnUNetPlans__2d", "Mine__nnUNetPlans__2d"):
        shutil.copytree(trained, dataset / name)
    return dataset


def test_a_trainer_folder_and_its_checkpoints(results):
    folder = results / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (folder / "fold_x").mkdir()
    shutil.copy(folder / "fold_0" / "checkpoint_final.pth", folder / "fold_x")
    shutil.copy(
        folder / "fold_0" / "checkpoint_final.pth", folder / "fold_0" / "checkpoint_best.pth"
    )
    shutil.copy(folder / "fold_0" / "checkpoint_final.pth", folder / "fold_0" / "checkpoint_x.pth")
    found = find_trained(folder, Choice())
    assert found.path == folder
    assert list(found.checkpoints) == ["0/best", "0/final", "all/final"]


@pytest.mark.parametrize("up", [0, 1])
def test_one_of_several_is_chosen(results, up):
    folder = results.parent if up else results
    found = find_trained(folder, Choice(configuration="2d", trainer="Mine"))
    assert found.name == "Mine__nnUNetPlans__2d"
    assert find_trained(folder, Choice(configuration="3d_fullres")).name.endswith("3d_fullres")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(), "3 of 3 models are meant"),
        (Choice(configuration="2d"), "2 of 3 models are meant"),
        (Choice(plans="Other"), "none is meant"),
    ],
)
def test_several_are_listed(results, choice, message):
    with pytest.raises(UserError, match=message) as error:
        find_trained(results, choice)
    assert "Mine__nnUNetPlans__2d" in error.value.what
    assert "--trainer" in error.value.fix


def test_a_single_renamed_folder_needs_no_choice(results, tmp_path):
    shutil.move(results / "Mine__nnUNetPlans__2d", tmp_path / "renamed")
    assert find_trained(tmp_path / "renamed", Choice()).name == "renamed"
    assert is_results(tmp_path / "renamed")


def test_what_is_no_result_is_told(results, tmp_path):
    folder = results / "Mine__nnUNetPlans__2d"
    with pytest.raises(UserError) as error:
        find_trained(folder / "fold_0", Choice())
    assert error.value.fix == f"give {folder}"
    for fold in folder.glob("fold_*"):
        shutil.rmtree(fold)
    with pytest.raises(UserError) as error:
        find_trained(folder, Choice())
    assert "no finished fold" in error.value.fix
    assert not is_results(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no trained model"):
        find_trained(tmp_path / "empty", Choice())
    with pytest.raises(UserError, match="no such folder"):
        find_trained(tmp_path / "missing", Choice())
