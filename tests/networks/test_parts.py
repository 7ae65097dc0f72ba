"""Parts of U-Nets and the names of their tensors."""

from dataclasses import replace

import pytest
import torch

from segkit.networks.build import build_network
from segkit.networks.parts import IMAGE, Part, unet_parts
from segkit.planning.plan import NetworkPlan

PLAN = NetworkPlan(
    features_per_stage=(2, 4, 4),
    strides=((1, 1), (2, 2), (2, 2)),
    kernel_sizes=((3, 3),) * 3,
    convs_per_stage=(2, 1, 2),
    convs_per_decoder_stage=(1, 2),
)


@pytest.mark.parametrize("kind", ["plain", "residual_encoder"])
def test_every_tensor_belongs_to_one_part_and_every_part_has_tensors(kind):
    plan = replace(PLAN, kind=kind, norm="batch")
    with torch.device("meta"):
        network = build_network(plan, in_channels=1, out_channels=2, deep_supervision=True)
    parts = unet_parts(plan)
    assert len(set(parts.values())) == len(parts)
    for name in network.state_dict():
        assert sum(name.startswith(f"{prefix}.") for prefix in parts.values()) == 1, name
    for prefix in parts.values():
        assert any(name.startswith(f"{prefix}.") for name in network.state_dict()), prefix


def test_stages_are_counted_from_the_highest_resolution():
    parts = unet_parts(PLAN)
    assert parts[IMAGE] == "encoder.stages.0.convs.0"
    assert parts[Part("encoder", 2, 1)] == "encoder.stages.2.convs.1"
    assert parts[Part("upsampling", 0)] == "decoder.upsamplings.1"
    assert parts[Part("decoder", 1, 0)] == "decoder.stages.0.convs.0"
    assert parts[Part("output", 0)] == "decoder.heads.1"


def test_residual_and_plain_encoders_count_convolutions_alike():
    parts = unet_parts(replace(PLAN, kind="residual_encoder"))
    assert parts[IMAGE] == "encoder.stem"
    assert parts[Part("encoder", 0, 1)] == "encoder.stages.0.blocks.0.conv1"
    assert parts[Part("encoder", 1, 0)] == "encoder.stages.1.blocks.0.conv1"
    assert parts[Part("encoder", 1, 1)] == "encoder.stages.1.blocks.0.conv2"
    assert parts[Part("projection", 1)] == "encoder.stages.1.blocks.0.project"
    # Widths do not change there.
    assert Part("projection", 0) not in parts
    assert Part("projection", 2) not in parts
