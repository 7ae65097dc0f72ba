"""Upsampling and convolution as one: equal to the two, borders and bias included."""

import copy

import pytest
import torch
from torch import nn

from segkit.networks.blocks import convolution, upsampling
from segkit.networks.build import build_network
from segkit.networks.fusing import FusedUpsampling, fusing_pays
from segkit.networks.unet import fuse_upsamplings
from segkit.planning.plan import NetworkPlan

SHAPES = [
    # stride, kernel
    ((2, 2, 2), (3, 3, 3)),
    ((1, 2, 2), (1, 3, 3)),
    ((1, 2, 2), (3, 3, 3)),
    ((3, 1, 2), (5, 3, 1)),
    ((2, 2), (3, 3)),
    ((4, 1), (3, 3)),
]


def layers(stride, kernel, *, below=6, between=3, skip=4, out=5):
    """Return the two layers in float64, all their weights drawn."""
    torch.manual_seed(0)
    upsample = upsampling(below, between, stride=stride)
    conv = convolution(between + skip, out, kernel=kernel, stride=(1,) * len(kernel))
    return upsample.double(), conv.double()


@pytest.mark.parametrize("traceable", [False, True])
@pytest.mark.parametrize(("stride", "kernel"), SHAPES)
@torch.no_grad()
def test_one_operation_is_equal_to_the_two(stride, kernel, traceable):
    upsample, conv = layers(stride, kernel)
    fused = FusedUpsampling(upsample, conv, traceable=traceable)
    # Another shape in between: what is kept of one must not be used for the next.
    for edges in ((2, 3, 4), (1, 1, 1), (2, 1, 1), (2, 3, 4)):
        small = edges[: len(stride)]
        below = torch.randn(2, 6, *small, dtype=torch.float64)
        skip = torch.randn(
            2, 4, *(n * s for n, s in zip(small, stride, strict=True)), dtype=torch.float64
        )
        expected = conv(torch.cat((upsample(below), skip), dim=1))
        assert torch.allclose(fused(below, skip), expected, atol=1e-12)


def test_nothing_as_large_as_the_features_is_kept_for_a_shape():
    upsample, conv = layers((2, 2, 2), (3, 3, 3))
    fused = FusedUpsampling(upsample, conv, traceable=False)
    with torch.no_grad():
        fused(torch.ones(1, 6, 8, 8, 8).double(), torch.ones(1, 4, 16, 16, 16).double())
    # 26 faces, edges and corners of 5 channels.
    assert [missing.numel() for _, missing in fused._border] == [5] * 26


def test_the_layers_it_was_made_of_stay_as_they_are():
    upsample, conv = layers((2, 2), (3, 3))
    before = copy.deepcopy((upsample.state_dict(), conv.state_dict()))
    with torch.no_grad():
        fused = FusedUpsampling(upsample, conv, traceable=False)
        fused(torch.ones(1, 6, 2, 2).double(), torch.ones(1, 4, 4, 4).double())
    for kept, module in zip(before, (upsample, conv), strict=True):
        assert all(torch.equal(kept[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("below", "pays"),
    # Of 3 channels between, 27 * 3 products for an output and its channel, and a few to upsample;
    # fused 8 for every channel below.
    [(6, True), (10, True), (12, False)],
)
def test_it_pays_where_products_are_saved(below, pays):
    assert fusing_pays(*layers((2, 2, 2), (3, 3, 3), below=below, out=1000)) == pays


def plan(**changes):
    return NetworkPlan(
        **{
            "features_per_stage": (4, 8, 8),
            "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
            "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
            "convs_per_stage": (1, 1, 1),
            "convs_per_decoder_stage": (1, 2),
            **changes,
        }
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"norm": "batch", "dropout": 0.5}, {"kind": "residual_encoder"}],
    ids=["plain", "batch norm", "residual"],
)
@torch.no_grad()
def test_a_fused_network_gives_the_same_logits(changes):
    torch.manual_seed(0)
    network = build_network(plan(**changes), in_channels=2, out_channels=3, deep_supervision=True)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.5)
    network = network.double().eval()
    image = torch.randn(2, 2, 4, 8, 12, dtype=torch.float64)
    expected = network(image)
    fuse_upsamplings(network)
    assert all(isinstance(part, FusedUpsampling) for part in network.decoder.upsamplings)
    assert torch.allclose(network(image), expected, atol=1e-10)


def test_what_does_not_pay_and_other_networks_stay():
    network = build_network(
        plan(features_per_stage=(1, 32, 32)), in_channels=1, out_channels=2, deep_supervision=False
    )
    fuse_upsamplings(network)
    kinds = [isinstance(part, FusedUpsampling) for part in network.decoder.upsamplings]
    assert kinds == [True, False]
    other = nn.Conv2d(1, 1, 1)
    fuse_upsamplings(other)
    assert list(dict(other.named_modules())) == [""]
