"""Write what nnU-Net plans for made-up data sets: tests/planning/nnunet_plans.json.

Run it in the environment of ``scripts/setup_peer``:  FOLDER/bin/python scripts/write_peer_plans.py
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

TARGET = Path(__file__).parents[1] / "tests" / "planning" / "nnunet_plans.json"
DATASETS: dict[str, dict[str, Any]] = {
    "hippocampus": {"cases": [(260, (36, 50, 35), (1, 1, 1))], "channels": 1, "labels": 3},
    "liver": {"cases": [(131, (432, 512, 512), (1, 0.767, 0.767))], "channels": 1, "labels": 3},
    "prostate": {"cases": [(32, (20, 320, 319), (3.6, 0.62, 0.62))], "channels": 2, "labels": 3},
    "brats": {"cases": [(1251, (140, 171, 136), (1, 1, 1))], "channels": 4, "labels": 4},
    "planes_rgb": {"cases": [(804, (1, 1500, 1500), (999, 1, 1))], "channels": 3, "labels": 2},
    "planes_small": {"cases": [(12, (1, 96, 130), (999, 1, 1))], "channels": 1, "labels": 4},
    "thick_slices_of_many_spacings": {
        "cases": [
            (20, (9, 250, 210), (10, 1.6, 1.6)),
            (40, (12, 260, 220), (5, 1.4, 1.4)),
            (25, (8, 300, 280), (6.5, 1.56, 1.56)),
        ],
        "channels": 1,
        "labels": 4,
    },
    "coarsest_axis_last": {
        "cases": [(5, (300, 280, 24), (0.5, 0.6, 4))],
        "channels": 1,
        "labels": 2,
    },
    "whole_body_ct": {
        "cases": [(90, (640, 400, 400), (1.5, 1.5, 1.5)), (10, (300, 512, 512), (3, 0.9, 0.9))],
        "channels": 1,
        "labels": 30,
    },
    "small_organ": {
        "cases": [(7, (30, 30, 25), (2, 0.8, 0.8)), (6, (48, 33, 20), (1, 1, 1))],
        "channels": 2,
        "labels": 2,
    },
}
"""Cases are (how many, shape, spacing in mm); labels count the background."""
SPECIAL: list[dict[str, Any]] = [
    {"dataset": "liver", "planner": "default", "gpu": 4},
    {"dataset": "liver", "planner": "default", "gpu": 24},
    {"dataset": "brats", "planner": "resenc_m", "gpu": 11},
    {"dataset": "planes_rgb", "planner": "resenc_l", "gpu": 12},
    {"dataset": "liver", "planner": "default", "spacing": (2.0, 1.5, 1.5)},
    {"dataset": "prostate", "planner": "resenc_m", "spacing": (1.0, 1.0, 1.0)},
    {
        "dataset": "thick_slices_of_many_spacings",
        "planner": "default",
        "spacing": (1.5, 1.5, 1.5),
    },
]
STATISTICS = dict.fromkeys(
    ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5"), 1.0
)


def planners() -> dict[str, type]:
    """nnU-Net's planners by segkit's names."""
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
        residual_encoder_unet_planners as residual,
    )

    return {
        "default": default_experiment_planner.ExperimentPlanner,
        "resenc": residual.ResEncUNetPlanner,
        "resenc_m": residual.nnUNetPlannerResEncM,
        "resenc_l": residual.nnUNetPlannerResEncL,
        "resenc_xl": residual.nnUNetPlannerResEncXL,
    }


def write_dataset(root: Path, name: str, data: dict[str, Any]) -> None:
    """Write dataset.json and a fingerprint; no image is needed."""
    labels = {"background": 0, **{f"label {i}": i for i in range(1, data["labels"])}}
    cases = [(shape, mm) for count, shape, mm in data["cases"] for _ in range(count)]
    description = {
        "channel_names": {str(i): "MR" for i in range(data["channels"])},
        "labels": labels,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    fingerprint = {
        "spacings": [list(map(float, mm)) for _, mm in cases],
        "shapes_after_crop": [shape for shape, _ in cases],
        "foreground_intensity_properties_per_channel": {
            str(i): STATISTICS for i in range(data["channels"])
        },
        "median_relative_size_after_cropping": 1.0,
    }
    for kind, file, content in [
        ("raw", "dataset.json", description),
        ("preprocessed", "dataset_fingerprint.json", fingerprint),
    ]:
        folder = root / kind / name
        (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(content))


def plan(root: Path, run: dict[str, Any]) -> dict[str, Any]:
    """Let nnU-Net plan, on torch's meta device: the networks it tries out need no memory."""
    data, name = DATASETS[run["dataset"]], f"Dataset900_{run['dataset'].replace('_', '')}"
    write_dataset(root, name, data)
    given = {"gpu": "gpu_memory_target_in_gb", "spacing": "overwrite_target_spacing"}
    options = {word: run[key] for key, word in given.items() if key in run}
    planner = planners()[run["planner"]](name, **options)
    planner.determine_reader_writer = lambda: type("NoReader", (), {})
    planner.save_plans = lambda plans: None
    with torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
        made = planner.plan_experiment()
        configurations = {
            key: describe(planner, configuration, data)
            for key, configuration in made["configurations"].items()
            if "inherits_from" not in configuration
        }
    transpose = list(map(int, made["transpose_forward"]))
    return {**run, "transpose_forward": transpose, "configurations": configurations}


def describe(planner: Any, configuration: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Gather the numbers of a configuration, and of the network it describes."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = configuration["architecture"]
    arguments, name = architecture["arch_kwargs"], architecture["network_class_name"]
    imports, channels, labels = (
        architecture["_kw_requires_import"],
        data["channels"],
        data["labels"],
    )
    network = get_network_from_plans(name, arguments, imports, channels, labels, allow_init=False)
    patch = list(map(int, configuration["patch_size"]))
    elements = planner.static_estimate_VRAM_usage(patch, channels, labels, name, arguments, imports)
    convs = arguments.get("n_blocks_per_stage", arguments.get("n_conv_per_stage"))
    return {
        "spacing_mm": list(map(float, configuration["spacing"])),
        "median_shape": list(map(float, configuration["median_image_size_in_voxels"])),
        "patch_size": patch,
        "batch_size": int(configuration["batch_size"]),
        "batch_dice": bool(configuration["batch_dice"]),
        "strides": ["".join(map(str, stride)) for stride in arguments["strides"]],
        "kernels": ["".join(map(str, kernel)) for kernel in arguments["kernel_sizes"]],
        "features": list(map(int, arguments["features_per_stage"])),
        "convs": list(map(int, convs)),
        "decoder_convs": list(map(int, arguments["n_conv_per_stage_decoder"])),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "elements": int(elements),
    }


def text_of(plans: list[dict[str, Any]]) -> str:
    """Write JSON with one line a data set and a configuration."""
    datasets = [f" {json.dumps(name)}: {json.dumps(data)}" for name, data in DATASETS.items()]
    rows = []
    for made in plans:
        head = json.dumps({key: value for key, value in made.items() if key != "configurations"})
        parts = [f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in made["configurations"].items()]
        rows.append(f' {head[:-1]}, "configurations": {{\n' + ",\n".join(parts) + "}}")
    return (
        '{\n"made_with": "nnU-Net 2.8.1, by scripts/write_peer_plans.py",\n"datasets": {\n'
        + ",\n".join(datasets)
        + '\n},\n"plans": [\n'
        + ",\n".join(rows)
        + "\n]}\n"
    )


def main() -> None:
    """Plan everything, in a minute."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{kind}"] = str(Path(folder) / kind)
        usual = [{"dataset": d, "planner": p} for d in DATASETS for p in planners()]
        TARGET.write_text(text_of([plan(Path(folder), run) for run in (*usual, *SPECIAL)]))


if __name__ == "__main__":
    main()
