"""From the plan's numbers to a network."""

from __future__ import annotations

from torch import nn

from segkit.errors import UserError
from segkit.networks.blocks import initialize
from segkit.networks.unet import Decoder, Encoder, UNet
from segkit.planning.plan import NetworkPlan


def build_network(
    network: NetworkPlan, *, in_channels: int, out_channels: int, deep_supervision: bool
) -> nn.Module:
    """Build a U-Net with freshly drawn weights (torch's global generator).

    Args:
        network: 2D or 3D by the length of its kernel sizes; plain or residual encoder.
        in_channels: Image channels.
        out_channels: Logits a voxel: classes with background, or regions.
        deep_supervision: In train mode return logits of every resolution, highest first.

    Raises:
        UserError: the plan does not describe a U-Net.
    """
    _check(network)
    unet = UNet(
        Encoder(network, channels_in=in_channels),
        Decoder(network, channels_out=out_channels),
        deep_supervision=deep_supervision,
    )
    initialize(unet)
    return unet


def _check(network: NetworkPlan) -> None:
    problems = _problems(network)
    if problems:
        fix = "correct the plan, or plan again with 'segkit plan'"
        raise UserError("; ".join(problems), where="network of the plan", fix=fix)


def _problems(network: NetworkPlan) -> list[str]:
    """One sentence for everything in the plan that cannot be built."""
    stages = len(network.features_per_stage)
    expected = {
        "strides": stages,
        "kernel_sizes": stages,
        "convs_per_stage": stages,
        "convs_per_decoder_stage": stages - 1,
    }
    problems = [
        f"{name} must have {count} entries for {stages} stages, got {len(getattr(network, name))}"
        for name, count in expected.items()
        if len(getattr(network, name)) != count
    ]
    if stages < 2:
        problems.append(f"a U-Net needs at least 2 stages, got {stages}")
    lengths = {len(axes) for axes in (*network.kernel_sizes, *network.strides)}
    if len(lengths) != 1 or not lengths <= {2, 3}:
        problems.append("kernel_sizes and strides must all have 2 or all have 3 axes")
    if any(size % 2 == 0 for kernel in network.kernel_sizes for size in kernel):
        problems.append(f"kernel_sizes must be odd, got {list(network.kernel_sizes)}")
    if network.strides and set(network.strides[0]) != {1}:
        problems.append(f"the first stride must be all ones, got {list(network.strides[0])}")
    if any(count < 1 for count in (*network.convs_per_stage, *network.convs_per_decoder_stage)):
        problems.append("every stage needs at least one convolution")
    return problems
