"""What runs a network: torch, or an engine that is faster on CPUs.

All that is known of one is in its entry in ``ENGINES``, so that another is another entry.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segkit.errors import UserError
from segkit.inference.engines.forward import Engine, EngineFailed, Forward
from segkit.inference.engines.openvino import (
    openvino_engine,
    openvino_int8_engine,
    openvino_works,
)
from segkit.inference.engines.ranges import Ranges
from segkit.networks.blocks import CONVOLUTIONS
from segkit.networks.own import OwnNetwork
from segkit.networks.unet import fuse_upsamplings
from segkit.planning.plan import NetworkPlan
from segkit.planning.topology import total_stride
from segkit.precision import Precision, channels_last_format
from segkit.types import Shape

AUTO = "auto"
"""Name that stands for the fastest engine with the numbers of the network as they are."""
MOST_OUTPUTS = 30
"""Of a network that ``auto`` takes OpenVINO for: with 15 outputs it is 6 % faster than torch, with
30 as fast, and with 60 it is 20 % slower."""
INT8 = "openvino-int8"
MOST_APART_IN_INT8: Mapping[torch.dtype, float] = {torch.float32: 0.01, torch.bfloat16: 0.3}
"""A rounding of bfloat16 may tip a value to the next of 256 levels, layer after layer."""
_TORCH_INSTEAD = "use --engine torch"


def find_engine(name: str, device_type: str) -> Engine:
    """Return an engine.

    Raises:
        UserError: there is none of that name, or it does not run on the device.
    """
    if name not in ENGINES:
        known = ", ".join((AUTO, *ENGINES))
        raise UserError(f"unknown engine {name!r}", where="--engine", fix=f"use one of {known}")
    engine = ENGINES[name]
    if device_type != "cpu" and not engine.on_gpu:
        what = f"the engine {name} runs on the CPU only"
        raise UserError(what, where="--engine", fix="use --device cpu, or --engine torch")
    return engine


def choose_engine(name: str, device_type: str, *, outputs: int, segkits: bool = True) -> str:
    """Resolve ``auto``: on CPUs OpenVINO where it works, for networks of segkit's own; else torch.

    OpenVINO starts in up to a second more, and each pass takes it 5 to 30 % less, as measured on
    x86 processors; others keep torch. So do networks of many outputs, in which it is slower.

    Args:
        name: Of an engine, which is returned, or ``auto``.
        device_type: Of the device that predicts.
        outputs: Channels of the logits.
        segkits: Whether the network is segkit's own, not a class of the user's.
    """
    if name != AUTO:
        return name
    faster = outputs <= MOST_OUTPUTS and platform.machine() in ("x86_64", "AMD64")
    if device_type == "cpu" and segkits and faster and openvino_works():
        return "openvino"
    return "torch"


def start_engine(
    name: str,
    network: nn.Module,
    trial: Tensor,
    precision: Precision,
    ranges: Ranges | None = None,
    patch_size: Shape | None = None,
) -> Forward:
    """Return the forward pass of a network in an engine, checked against torch's on a small input.

    Logits in integers are checked against those of torch in numbers that are rounded alike.

    Args:
        name: One of ``ENGINES``.
        network: In evaluation mode and on its device; the engine may change it.
        trial: (1, C, *S) float32, an input to compare the logits on.
        precision: Of convolutions and activations.
        ranges: For an engine that computes in integers: of the inputs of its convolutions.
        patch_size: Of what is going to be predicted, on which it is tried too.

    Raises:
        UserError: no such engine, or it is not made for the network or its device.
        EngineFailed: its package is missing, it fails, or its logits are not torch's.
    """
    assert not network.training, "networks must be in eval mode"
    engine = find_engine(name, precision.device_type)
    if engine is ENGINES["torch"]:
        return engine.start(network, trial, precision, {})
    logits = torch.inference_mode()(network)
    if not engine.quantized:
        expected = logits(trial)  # before the engine changes the network
    try:
        forward = engine.start(network, trial, precision, ranges or {})
        with torch.inference_mode():
            found = forward(trial)
            if patch_size is not None:
                forward(trial.new_zeros(*trial.shape[:2], *patch_size))
    except UserError:
        raise
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        what = f"the engine {name} cannot run this network: {why}"
        raise EngineFailed(what, where="--engine", fix=_TORCH_INSTEAD) from error
    if engine.quantized:
        # What rounding costs is for `quantize` to tell: noise is not what the ranges are made for.
        expected = logits(trial)
    check_parity(name, found, expected, engine.most_apart[precision.dtype])
    return forward


def trial_input(network: NetworkPlan, channels: int, patch_size: Shape) -> Tensor:
    """Return (1, C, *S) seeded noise, small: at least two voxels an axis at the lowest stage.

    Of a network that is a class, nothing is known but that it takes a whole patch.
    """
    poolings = total_stride(network.strides)
    shape = [min(edge, 2 * pooling) for edge, pooling in zip(patch_size, poolings, strict=True)]
    if network.class_ is not None:
        shape = list(patch_size)
    return torch.randn(1, channels, *shape, generator=torch.Generator().manual_seed(0))


def torch_engine(
    network: nn.Module, trial: Tensor, precision: Precision, ranges: Ranges
) -> Forward:
    """Run the network in torch; its weights are changed to the precision, once and for all.

    Those of a user's class stay as they are: its code may do with them what it likes.
    """
    on_cpu = precision.device_type == "cpu"
    layout = channels_last_format(trial.ndim) if on_cpu else torch.preserve_format
    device = next(network.parameters()).device
    if on_cpu:
        fuse_upsamplings(network)
    for module in () if isinstance(network, OwnNetwork) else network.modules():
        if isinstance(module, CONVOLUTIONS):
            module.to(dtype=precision.dtype, memory_format=layout)  # type: ignore[call-overload]

    def forward(batch: Tensor) -> Tensor:
        logits: Tensor = precision.forward(network, batch.to(device, non_blocking=True))
        return logits.float()

    return forward


def check_parity(name: str, found: Tensor, expected: Tensor, most_apart: float) -> None:
    """Compare the logits of an engine with those of torch in float32.

    Args:
        name: Of the engine, for the message.
        found: (1, out, *S) float32, its logits.
        expected: The same of torch.
        most_apart: Largest RMS difference of the logits, as a share of their standard deviation.

    Raises:
        EngineFailed: they differ by more.
    """
    apart = float((found - expected).square().mean().sqrt() / expected.std())
    if not apart <= most_apart:
        what = (
            f"the engine {name} gives other logits than torch: {apart:.2g} of their spread apart, "
            f"{most_apart:g} allowed"
        )
        raise EngineFailed(what, where="--engine", fix=_TORCH_INSTEAD)


ENGINES: Mapping[str, Engine] = {
    # Several small patches, for torch takes slower convolutions for single ones.
    "torch": Engine(start=torch_engine, batch_voxels=5 * 2**16, on_gpu=True),
    "openvino": Engine(start=openvino_engine, own_threads=True),
    INT8: Engine(
        start=openvino_int8_engine,
        most_apart=MOST_APART_IN_INT8,
        own_threads=True,
        quantized=True,
    ),
}
"""Batches are no larger than the time they save is worth in memory."""
