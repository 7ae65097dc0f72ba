"""A model of segkit becomes a folder that nnU-Net predicts with."""

import dataclasses
import json

import pytest
import torch
from nnunet_files import FEATURES, KERNELS, STATISTICS, STRIDES, forward

from segkit.checkpoint import load_checkpoint, save_checkpoint
from segkit.cli.main import main
from segkit.dataset.description import describe
from segkit.errors import UserError
from segkit.inference.model import ModelSettings, load_model, save_model
from segkit.interop.nnunet.exporting import export_trained
from segkit.interop.nnunet.importing import import_trained
from segkit.interop.nnunet.results import Choice, find_trained
from segkit.networks.build import build_network
from segkit.planning.plan import ConfigurationPlan, IntensityStatistics, NetworkPlan, Plan

DATASET = {
    "channel_names": {"0": "CT", "1": "T2"},
    "labels": {"background": 0, "b": 2, "a": 1, "ignore": 3},
    "numTraining": 5,
    "file_ending": ".nii.gz",
}
REGIONS = {
    "labels": {"background": 0, "whole": [2, 1], "core": 2, "ignore": 7},
    "regions_class_order": [1, 2],
}
CONFIGURATION = ConfigurationPlan(
    spacing_mm=(2.0, 1.0, 1.0),
    patch_size=(8, 8, 8),
    batch_size=2,
    median_shape=(6.0, 12.0, 12.0),
    normalization=("ct", "zscore"),
    normalize_inside_mask=(False, True),
    batch_dice=True,
    network=NetworkPlan(
        features_per_stage=FEATURES,
        strides=STRIDES,
        kernel_sizes=KERNELS,
        convs_per_stage=(2, 2, 2),
        convs_per_decoder_stage=(2, 2),
    ),
    resampling="linear",
)
PLAN = Plan(
    planner="default",
    dataset="Dataset007_Toy",
    channel_names=("CT", "T2"),
    transpose_forward=(1, 0, 2),
    orientation=None,
    intensities=(IntensityStatistics(**STATISTICS),) * 2,
    force_invalid_to_background=False,
    voxel_rules="nnunet",
    configurations={"3d_fullres": CONFIGURATION},
)
SETTINGS = ModelSettings(
    configuration="3d_fullres", recipe="default", patch_size=(4, 8, 8), mirror_axes=(0, 2)
)


def trained(folder, plan=PLAN, settings=SETTINGS, folds=("0",), **changes):
    """Write a model folder with random weights."""
    description = describe({**DATASET, **changes}, folder / "dataset.json")
    save_model(folder, settings, plan, description)
    model = load_model(folder)
    for seed, fold in enumerate(folds):
        torch.manual_seed(seed)
        network = build_network(
            model.configuration.network,
            in_channels=model.input_channels,
            out_channels=model.description.labels.num_outputs,
            deep_supervision=False,
        )
        for tensor in network.parameters():
            tensor.data.add_(0.1 * torch.randn(tensor.shape))
        save_checkpoint(folder / f"fold_{fold}" / "final.pt", {"network": network.state_dict()})
    return model


def exported(folder, model):
    result = export_trained(model, folder, None)
    content = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    return result, content


def network_of(model):
    network = build_network(
        model.configuration.network,
        in_channels=model.input_channels,
        out_channels=model.description.labels.num_outputs,
        deep_supervision=False,
    )
    weights = load_checkpoint(model.folder / "fold_0" / "final.pt")["network"]
    network.load_state_dict(weights)
    return network.eval()


IMAGE = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("changes", "order"), [({}, [0, 2, 1]), (REGIONS, [0, 1])])
def test_the_weights_compute_the_same_with_outputs_ordered_by_value(tmp_path, changes, order):
    model = trained(tmp_path / "model", **changes)
    _, content = exported(tmp_path / "out", model)
    logits = forward(content["network_weights"], IMAGE)
    torch.testing.assert_close(logits, network_of(model)(IMAGE)[:, order], rtol=1e-4, atol=1e-5)


def test_what_nnunet_reads_is_written(tmp_path):
    model = trained(tmp_path / "model", folds=("0", "all"))
    result, content = exported(tmp_path / "out", model)
    assert result.checkpoints == ("fold_0/checkpoint_final.pth", "fold_all/checkpoint_final.pth")
    assert result.notes == ()
    assert content["trainer_name"] == "nnUNetTrainer"
    assert content["inference_allowed_mirroring_axes"] == (0, 2)
    assert content["init_args"]["configuration"] == "3d_fullres"
    assert content["init_args"]["fold"] == 0
    plans = json.loads((tmp_path / "out" / "plans.json").read_text())
    assert plans["transpose_backward"] == [1, 0, 2]
    assert plans["image_reader_writer"] == "SimpleITKIO"
    assert plans["foreground_intensity_properties_per_channel"]["1"] == STATISTICS
    written = plans["configurations"]["3d_fullres"]
    assert written["patch_size"] == [4, 8, 8]
    assert written["normalization_schemes"] == ["CTNormalization", "ZScoreNormalization"]
    assert written["use_mask_for_norm"] == [False, True]
    labels = json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"]
    assert list(labels.items()) == [("background", 0), ("a", 1), ("b", 2), ("ignore", 3)]
    assert (tmp_path / "out" / "dataset_fingerprint.json").is_file()


def test_an_ignore_label_that_nnunet_does_not_know_is_left_out(tmp_path):
    model = trained(tmp_path / "model", **REGIONS)
    exported(tmp_path / "out", model)
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "whole": [2, 1], "core": 2}
    assert content["regions_class_order"] == [1, 2]


@pytest.mark.parametrize("kind", ["plain", "residual_encoder"])
def test_export_then_import(tmp_path, kind):
    network = dataclasses.replace(CONFIGURATION.network, kind=kind)
    configuration = dataclasses.replace(CONFIGURATION, network=network, patch_size=(4, 8, 8))
    plan = dataclasses.replace(PLAN, configurations={"3d_fullres": configuration})
    labels = {"background": 0, "a": 1, "b": 2}
    model = trained(tmp_path / "model", plan, labels=labels)
    export_trained(model, tmp_path / "out", None)
    import_trained(find_trained(tmp_path / "out", Choice()), tmp_path / "back")
    back = load_model(tmp_path / "back")
    assert back.configuration == configuration
    kept = ("transpose_forward", "intensities", "voxel_rules", "force_invalid_to_background")
    assert all(getattr(back.plan, key) == getattr(plan, key) for key in kept)
    assert back.settings.mirror_axes == model.settings.mirror_axes
    before, after = (
        load_checkpoint(folder / "fold_0" / "final.pt")["network"]
        for folder in (tmp_path / "model", tmp_path / "back")
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("plan", "settings", "note"),
    [
        ({"voxel_rules": "segkit"}, {}, "counts black voxels"),
        ({"force_invalid_to_background": True}, {}, "labels on black voxels"),
        ({"orientation": "LPS"}, {}, "stored in LPS"),
        ({}, {"swap_axis": 2}, "will not mirror left and right"),
    ],
)
def test_what_nnunet_does_otherwise_is_told(tmp_path, plan, settings, note):
    changed = dataclasses.replace(PLAN, **plan), dataclasses.replace(SETTINGS, **settings)
    model = trained(tmp_path / "model", *changed)
    result, content = exported(tmp_path / "out", model)
    [told] = result.notes
    assert note in told
    expected = (0,) if settings else (0, 2)
    assert content["inference_allowed_mirroring_axes"] == expected


def test_no_axes_are_none(tmp_path):
    model = trained(tmp_path / "model", PLAN, dataclasses.replace(SETTINGS, mirror_axes=()))
    assert exported(tmp_path / "out", model)[1]["inference_allowed_mirroring_axes"] is None


STRUCTURES = {"label_encoding": "multilabel", "labels": {"background": 0, "a": 1, "b": 2}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (STRUCTURES, "structures may overlap"),
        ({"labels": {"background": 0, "a": 1, "b": 5}}, "label values are [0, 1, 5]"),
        ({"file_ending": ".jpg"}, ".jpg"),
    ],
)
def test_what_nnunet_does_not_have_is_refused(tmp_path, changes, reason):
    model = trained(tmp_path / "model", **changes)
    with pytest.raises(UserError) as error:
        export_trained(model, tmp_path / "out", None)
    assert reason in error.value.what
    assert not (tmp_path / "out").exists()


def test_nothing_is_trained(tmp_path):
    with pytest.raises(UserError, match="no fold of this model is trained"):
        export_trained(trained(tmp_path / "model", folds=()), tmp_path / "out", None)


def test_the_command_line(tmp_path, capsys):
    trained(tmp_path / "model", dataclasses.replace(PLAN, orientation="LPS"))
    command = ["export_nnunet", str(tmp_path / "model"), "-o", str(tmp_path / "out")]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "exported fold_0/checkpoint_final.pth" in told
    assert "note: nnU-Net does not turn images" in told
    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert main(["import_nnunet", str(tmp_path / "out"), "-o", str(tmp_path / "back")]) == 0
