"""Plans and models so small that a test can make them anew."""

import json
from dataclasses import replace

import torch

from segkit.checkpoint import save_checkpoint
from segkit.dataset.description import load_description
from segkit.inference.model import ModelSettings, load_model, save_model
from segkit.networks.build import build_network
from segkit.planning.plan import ConfigurationPlan, IntensityStatistics, NetworkPlan, Plan

STATISTICS = IntensityStatistics(
    mean=0.0, median=0.0, std=1.0, min=0.0, max=1.0, percentile_00_5=0.0, percentile_99_5=1.0
)
CONTENT = {
    "channel_names": {"0": "MR"},
    "labels": {"background": 0, "a": 1, "b": 2},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}


def tiny_network(ndim=3, stages=2, **changes):
    """Return a plain U-Net that halves every axis from stage to stage."""
    network = NetworkPlan(
        features_per_stage=tuple(2 * (i + 1) for i in range(stages)),
        strides=((1,) * ndim, *[(2,) * ndim] * (stages - 1)),
        kernel_sizes=((3,) * ndim,) * stages,
        convs_per_stage=(1,) * stages,
        convs_per_decoder_stage=(1,) * (stages - 1),
    )
    return replace(network, **changes)


def tiny_configuration(ndim=3, channels=1, stages=2, **changes):
    """Return a configuration of voxels of 1 mm and patches of 8 of them an axis."""
    configuration = ConfigurationPlan(
        spacing_mm=(1.0,) * ndim,
        patch_size=(8,) * ndim,
        batch_size=2,
        median_shape=(8.0,) * ndim,
        normalization=("zscore",) * channels,
        normalize_inside_mask=(False,) * channels,
        batch_dice=False,
        network=tiny_network(ndim, stages),
    )
    return replace(configuration, **changes)


def tiny_plan(configuration=None, channels=("MR",), **changes):
    """Return a plan of one configuration, 2d or 3d_fullres."""
    configuration = configuration or tiny_configuration(channels=len(channels))
    plan = Plan(
        planner="default",
        dataset="Dataset001_Toy",
        channel_names=tuple(channels),
        transpose_forward=(0, 1, 2),
        orientation=None,
        intensities=(STATISTICS,) * len(channels),
        configurations={configuration_name(configuration): configuration},
    )
    return replace(plan, **changes)


def configuration_name(configuration):
    return "2d" if configuration.ndim == 2 else "3d_fullres"


def write_description(folder, **changes):
    """Write a dataset.json, of the two classes a and b unless changed, and read it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({**CONTENT, **changes}))
    return load_description(folder)


def write_model(folder, plan, *, folds=(0,), mirror_axes=(), layout="integers", **content):
    """Write a model folder of random weights, seeded by fold; ``content`` is of dataset.json."""
    (configuration,) = plan.configurations.values()
    names = {str(i): name for i, name in enumerate(plan.channel_names)}
    description = write_description(folder.parent / "raw", channel_names=names, **content)
    settings = ModelSettings(
        configuration=configuration_name(configuration),
        recipe="default",
        patch_size=configuration.patch_size,
        mirror_axes=mirror_axes,
        label_layout=layout,
    )
    save_model(folder, settings, plan, description)
    outputs = load_model(folder).description.labels.num_outputs
    for fold in folds:
        torch.manual_seed(fold)
        network = build_network(
            configuration.network,
            in_channels=len(plan.channel_names),
            out_channels=outputs,
            deep_supervision=False,
        )
        save_checkpoint(folder / f"fold_{fold}" / "final.pt", {"network": network.state_dict()})
    return folder
