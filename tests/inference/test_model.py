"""Model folders: what is written is read; what does not fit is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from tiny import tiny_configuration, tiny_network, tiny_plan

from segkit.checkpoint import save_checkpoint
from segkit.dataset.description import describe, load_description
from segkit.errors import UserError
from segkit.inference.model import (
    ModelSettings,
    load_model,
    load_networks,
    save_model,
    trained_folds,
)
from segkit.networks.build import build_network
from segkit.networks.own import allow_code

NETWORK = tiny_network(ndim=2)
CONFIGURATION = tiny_configuration(ndim=2, batch_dice=True, network=NETWORK)
PLAN = tiny_plan(CONFIGURATION)
OTHER_PLAN = replace(PLAN, channel_names=("CT",))
SETTINGS = ModelSettings(configuration="2d", recipe="default", patch_size=(8, 8), mirror_axes=(0,))


@pytest.fixture
def description(tmp_path):
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "a": 1},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    folder = tmp_path / "Dataset001_Toy"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(content))
    return load_description(folder)


@pytest.fixture
def folder(tmp_path, description):
    save_model(tmp_path / "model", SETTINGS, PLAN, description)
    return tmp_path / "model"


def network():
    return build_network(NETWORK, in_channels=1, out_channels=2, deep_supervision=True)


def add_fold(folder, name):
    made = network()
    save_checkpoint(folder / f"fold_{name}" / "final.pt", {"network": made.state_dict()})
    return made


def test_round_trip_anywhere(folder, tmp_path):
    made = add_fold(folder, "0")
    shutil.move(folder, tmp_path / "moved")
    model = load_model(tmp_path / "moved")
    assert (model.plan, model.settings) == (PLAN, SETTINGS)
    loaded = load_networks(model, None, checkpoint="final", device=torch.device("cpu"))
    image = torch.randn(1, 1, 8, 8)
    assert not loaded[0].training
    assert torch.equal(loaded[0](image), made.eval()(image))


def test_fold_all_predicts_only_where_it_stands_alone(folder):
    add_fold(folder, "all")
    assert trained_folds(folder) == ["all"]
    add_fold(folder, "1")
    add_fold(folder, "0")
    assert trained_folds(folder) == ["0", "1"]


def test_other_folds_must_agree(folder, description):
    other = ModelSettings(
        configuration="2d", recipe="default", patch_size=(16, 16), mirror_axes=(0,)
    )
    save_model(folder, other, PLAN, description)
    add_fold(folder, "0")
    save_model(folder, other, PLAN, description)
    with pytest.raises(UserError) as caught:
        save_model(folder, SETTINGS, PLAN, description)
    assert "with another patch size ([16, 16], now [8, 8]): fold_0\n" in str(caught.value)
    save_model(folder, SETTINGS, PLAN, description, replaced=["0"])
    add_fold(folder, "1")
    with pytest.raises(UserError) as caught:
        save_model(folder, replace(SETTINGS, label_layout="folder"), OTHER_PLAN, description)
    different = "plan or dataset.json and label layout (integers, now folder)"
    assert f"with another {different}: fold_1\n" in str(caught.value)


def test_what_is_added_to_the_plan_leaves_a_model_as_it_is(folder, description):
    add_fold(folder, "0")
    more = {**PLAN.configurations, "mine": replace(CONFIGURATION, batch_size=4)}
    save_model(folder, SETTINGS, replace(PLAN, configurations=more, planned="x"), description)
    own = {"2d": replace(CONFIGURATION, batch_size=4)}
    with pytest.raises(UserError, match="another plan"):
        save_model(folder, SETTINGS, replace(PLAN, configurations=own), description)


def test_models_of_an_older_version_say_what_to_do(folder, description):
    save_model(folder, SETTINGS, PLAN, description)
    content = json.loads((folder / "model.json").read_text()) | {"format_version": 1}
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"format version 1 cannot be read(.|\n)*train it again"):
        load_model(folder)
    save_model(folder, SETTINGS, PLAN, description)
    assert load_model(folder).settings == SETTINGS
    (folder / "model.json").write_text(json.dumps(content))
    add_fold(folder, "0")
    with pytest.raises(UserError, match=r"format version 1 cannot be read(.|\n)*train it again"):
        save_model(folder, SETTINGS, PLAN, description)


def test_what_is_no_model_is_refused(folder, tmp_path):
    add_fold(folder, "0")
    with pytest.raises(UserError, match=r"no model.json"):
        load_model(tmp_path / "nothing")
    with pytest.raises(UserError, match=str(folder)):
        load_model(folder / "fold_0")


def test_changed_parts_are_noticed(folder):
    content = json.loads((folder / "dataset.json").read_text())
    content["labels"] = {"background": 0, "b": 1}
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="changed after training"):
        load_model(folder)


def test_missing_and_foreign_checkpoints_are_refused(folder):
    model = load_model(folder)
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match="no fold"):
        load_networks(model, None, checkpoint="final", device=cpu)
    with pytest.raises(UserError, match="no such checkpoint"):
        load_networks(model, ["3"], checkpoint="final", device=cpu)
    save_checkpoint(folder / "fold_0" / "final.pt", {"network": {"w": torch.zeros(1)}})
    with pytest.raises(UserError, match="do not fit the plan"):
        load_networks(model, ["0"], checkpoint="final", device=cpu)


def test_what_changes_places_in_a_mirror_comes_with_the_model(tmp_path, description):
    labels = {"background": 0, "l": 1, "m": 2, "r": 3}
    content = {**description.content, "labels": labels, "mirror_pairs": [["l", "r"]]}
    described = describe(content, description.file)
    fine = replace(CONFIGURATION, previous_stage="2d")
    plan = replace(PLAN, configurations={"2d": CONFIGURATION, "cascade": fine})
    for name, inputs in (("2d", (0,)), ("cascade", (0, 3, 2, 1))):
        settings = replace(SETTINGS, configuration=name, mirror_axes=(0, 1), swap_axis=1)
        save_model(tmp_path / name, settings, plan, described)
        swap = load_model(tmp_path / name).side_swap
        assert (swap.axis, swap.inputs, swap.outputs) == (1, inputs, (0, 3, 2, 1))
    settings = replace(SETTINGS, swap_axis=None)
    save_model(tmp_path / "none", settings, plan, described)
    assert load_model(tmp_path / "none").side_swap is None


def test_a_network_other_than_the_plans_is_built_again(tmp_path, description):
    changed = replace(NETWORK, norm="batch", dropout=0.2, kind="residual_encoder")
    folder = tmp_path / "model"
    save_model(folder, replace(SETTINGS, network=changed), PLAN, description)
    made = build_network(changed, in_channels=1, out_channels=2, deep_supervision=True)
    image = torch.randn(4, 1, 8, 8)
    made(image)
    save_checkpoint(folder / "fold_0" / "final.pt", {"network": made.state_dict()})
    model = load_model(folder)
    assert model.network == changed
    (loaded,) = load_networks(model, None, checkpoint="final", device=torch.device("cpu"))
    assert torch.equal(loaded(image), made.eval()(image))


def test_folds_with_other_networks_are_not_mixed(folder, description):
    save_model(folder, replace(SETTINGS, network=NETWORK), PLAN, description)
    add_fold(folder, "0")
    other = replace(SETTINGS, network=replace(NETWORK, norm="batch"))
    with pytest.raises(UserError) as caught:
        save_model(folder, other, PLAN, description)
    assert "with another network norm (instance, now batch): fold_0\n" in str(caught.value)


def test_a_class_is_neither_run_unasked_nor_without_being_installed(tmp_path, description):
    folder = tmp_path / "model"
    named = replace(NETWORK, class_="absent_nets:Net", arguments={"patch_size": [8, 8]})
    save_model(folder, replace(SETTINGS, network=named), PLAN, description)
    add_fold(folder, "0")
    model, cpu = load_model(folder), torch.device("cpu")
    with pytest.raises(UserError, match="not part of segkit: absent_nets:Net") as caught:
        load_networks(model, None, checkpoint="final", device=cpu)
    assert "--allow-code absent_nets:Net" in caught.value.fix
    missing = pytest.raises(UserError, match="this machine has no module 'absent_nets'")
    with missing, allow_code("absent_nets:Net"):
        load_networks(model, None, checkpoint="final", device=cpu)
