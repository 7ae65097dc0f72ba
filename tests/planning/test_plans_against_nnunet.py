"""Every number of a plan is nnU-Net's: for all planners, on data sets of many kinds.

``nnunet_plans.json`` holds what nnU-Net's own planners made of constant fingerprints, and the
parameters and feature map elements that its own networks then have.
"""

import json
from pathlib import Path

import pytest
import torch
from fake_datasets import STATISTICS, describe, fake_case

from segkit.networks.build import build_network
from segkit.planning.fingerprint import Fingerprint
from segkit.planning.memory import feature_map_elements
from segkit.planning.patch import network_of
from segkit.planning.plan import PlanRequest
from segkit.planning.planner import PLANNERS, make_plan
from segkit.planning.topology import plan_topology

GOLDEN = json.loads((Path(__file__).parent / "nnunet_plans.json").read_text())


def fingerprint_of(cases, channels):
    return Fingerprint(
        cases=tuple(fake_case(shape, mm) for n, shape, mm in cases for _ in range(n)),
        intensities=(STATISTICS,) * channels,
        median_relative_size_after_crop=1.0,
        labelled_share_in_zero=0.0,
    )


def asked(run):
    spacing = tuple(run["spacing"]) if "spacing" in run else "median"
    return PlanRequest(gpu_memory_gb=run.get("gpu"), spacing=spacing)


def parameters_of(network, channels, heads):
    with torch.device("meta"):
        built = build_network(
            network, in_channels=channels, out_channels=heads, deep_supervision=True
        )
    return sum(parameter.numel() for parameter in built.parameters())


def in_nnunets_words(configuration, channels, heads):
    network = configuration.network
    return {
        "patch_size": list(configuration.patch_size),
        "batch_size": configuration.batch_size,
        "batch_dice": configuration.batch_dice,
        "strides": ["".join(map(str, stride)) for stride in network.strides],
        "kernels": ["".join(map(str, kernel)) for kernel in network.kernel_sizes],
        "features": list(network.features_per_stage),
        "convs": list(network.convs_per_stage),
        "decoder_convs": list(network.convs_per_decoder_stage),
        "parameters": parameters_of(network, channels, heads),
        "elements": feature_map_elements(network, configuration.patch_size, heads),
    }


def run_name(run):
    given = [f"{key} {run[key]}" for key in ("gpu", "spacing") if key in run]
    return " ".join([run["dataset"], run["planner"], *given])


@pytest.mark.parametrize("run", GOLDEN["plans"], ids=run_name)
def test_plans_are_nnunets(run):
    data = GOLDEN["datasets"][run["dataset"]]
    channels, labels = data["channels"], data["labels"]
    description = describe(("MR",) * channels, labels)
    fingerprint = fingerprint_of(data["cases"], channels)
    plan = make_plan(fingerprint, description, planner=run["planner"], request=asked(run))
    assert list(plan.transpose_forward) == run["transpose_forward"]
    without_cascade = {n: c for n, c in plan.configurations.items() if c.previous_stage is None}
    assert without_cascade.keys() == run["configurations"].keys()
    for name, expected in run["configurations"].items():
        configuration = plan.configuration(name)
        assert configuration.spacing_mm == pytest.approx(expected.pop("spacing_mm"), abs=1e-9)
        assert configuration.median_shape == pytest.approx(expected.pop("median_shape"), abs=1e-9)
        assert in_nnunets_words(configuration, channels, labels) == expected


@pytest.mark.parametrize(
    ("planner", "patch", "elements", "parameters"),
    [
        ("default", (128, 128, 128), 452_796_416, 31_196_399),
        ("default", (512, 512), 82_886_656, None),
        ("resenc_m", (128, 128, 128), 557_420_544, 102_350_575),
        ("resenc_m", (512, 512), 129_703_936, None),
    ],
)
def test_the_networks_that_memory_was_measured_with(planner, patch, elements, parameters):
    network = network_of(plan_topology((1.0,) * len(patch), patch), PLANNERS[planner])
    assert feature_map_elements(network, patch, heads=3) == elements
    assert parameters in (None, parameters_of(network, channels=1, heads=3))


def test_every_planner_of_nnunet_is_compared():
    compared = {run["planner"] for run in GOLDEN["plans"]}
    assert compared == {name for name in PLANNERS if name != "cpu"}
