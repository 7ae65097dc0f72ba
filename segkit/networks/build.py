"""From the plan's numbers to a network."""

from __future__ import annotations

from torch import nn

from segkit.errors import UserError
from segkit.networks.blocks import initialize
from segkit.networks.own import build_own_network
from segkit.networks.unet import Decoder, Encoder, UNet
from segkit.planning.checks import network_faults
from segkit.planning.plan import NetworkPlan


def build_network(
    network: NetworkPlan,
    *,
    in_channels: int,
    out_channels: int,
    deep_supervision: bool,
    checkpointing: bool = False,
) -> nn.Module:
    """Build a network with freshly drawn weights (torch's global generator).

    Args:
        network: A U-Net, 2D or 3D by the length of its kernel sizes, with a plain or residual
            encoder; or a class, which is imported. Whoever calls this has made sure that the user
            wants that code to run.
        in_channels: Image channels.
        out_channels: Logits a voxel: classes with background, or regions.
        deep_supervision: In train mode return logits of every resolution, highest first. A class
            has it among its arguments.
        checkpointing: Of a U-Net: compute activations twice in place of keeping them.

    Raises:
        UserError: the plan does not describe a U-Net, or the class cannot be had.
    """
    if network.class_ is not None:
        return build_own_network(
            network.class_,
            network.arguments,
            in_channels=in_channels,
            out_channels=out_channels,
        )
    check_unet(network)
    unet = UNet(
        Encoder(network, channels_in=in_channels),
        Decoder(network, channels_out=out_channels),
        deep_supervision=deep_supervision,
        checkpointing=checkpointing,
    )
    initialize(unet)
    return unet


def check_unet(network: NetworkPlan) -> None:
    """Refuse numbers that describe no U-Net.

    Raises:
        UserError: everything that is wrong with them.
    """
    if faults := list(network_faults(network)):
        what = "; ".join(f"{fault.key}: {fault.what}" for fault in faults)
        fix = "correct them in the plan or in the recipe, or plan again with 'segkit plan'"
        raise UserError(what, where="network of the plan or recipe", fix=fix)
