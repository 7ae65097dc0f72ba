"""What runs a network: torch, or an engine that is faster on CPUs; each a function.

An engine takes (B, C, *patch) float32 to logits (B, out, *patch) float32. Nothing else of it is
known to whoever predicts, so that another engine is another entry in ``ENGINES``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segkit.errors import UserError
from segkit.networks.blocks import CONVOLUTIONS
from segkit.networks.own import OwnNetwork
from segkit.networks.unet import fuse_upsamplings
from segkit.planning.plan import NetworkPlan
from segkit.planning.topology import total_stride
from segkit.precision import Precision, channels_last_format
from segkit.types import Shape

Forward = Callable[[Tensor], Tensor]
"""(B, C, *patch) float32 to logits (B, out, *patch) float32."""
Engine = Callable[[nn.Module, Tensor, Precision], Forward]
"""Makes the forward pass of a network, given a small input to try it on, and a precision."""

MOST_APART: Mapping[torch.dtype, float] = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Logits of an engine and of torch in float32 may differ by this share of their spread (RMS)."""


def start_engine(name: str, network: nn.Module, trial: Tensor, precision: Precision) -> Forward:
    """Return the forward pass of a network in an engine, checked against torch's.

    Args:
        name: One of ``ENGINES``.
        network: In evaluation mode and on its device; the engine may change it.
        trial: (1, C, *S) float32, an input to compare the logits on.
        precision: Of convolutions and activations.

    Raises:
        UserError: no such engine, its package is missing, it does not run on the network's
            device, or its logits are not torch's.
    """
    assert not network.training, "networks must be in eval mode"
    if name not in ENGINES:
        raise UserError(f"unknown engine {name!r}", fix=f"use one of {', '.join(ENGINES)}")
    if name != "torch" and precision.device_type != "cpu":
        what = f"the engine {name} runs on the CPU only"
        raise UserError(what, where="--engine", fix="use --device cpu, or --engine torch")
    if name == "torch":
        return torch_engine(network, trial, precision)
    with torch.inference_mode():
        expected = network(trial)
    forward = ENGINES[name](network, trial, precision)
    check_parity(name, forward, trial, expected, MOST_APART[precision.dtype])
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


def torch_engine(network: nn.Module, trial: Tensor, precision: Precision) -> Forward:
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


def openvino_engine(network: nn.Module, trial: Tensor, precision: Precision) -> Forward:
    """Run the network in OpenVINO, compiled for any shape and as many threads as torch's.

    Raises:
        UserError: OpenVINO is not installed.
    """
    openvino = _import_openvino()
    fuse_upsamplings(network)
    with torch.no_grad():
        # A frozen trace of a small input converts in a tenth of the time and memory of a module.
        traced = torch.jit.freeze(torch.jit.trace(network, trial, check_trace=False))
    settings = {
        "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[precision.dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.compile_model(openvino.convert_model(traced), "CPU", settings)

    def forward(batch: Tensor) -> Tensor:
        return torch.from_numpy(compiled(batch.contiguous().numpy(), share_inputs=True)[0])

    return forward


_OPENVINO_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


def _import_openvino() -> Any:
    # With this package OpenVINO would report its use over the network, without asking.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        fix = "pip install 'segkit[openvino]', or use --engine torch"
        raise UserError("OpenVINO is not installed", where="--engine openvino", fix=fix) from None
    return openvino


@torch.inference_mode()
def check_parity(
    name: str, forward: Forward, trial: Tensor, expected: Tensor, most_apart: float
) -> None:
    """Compare the logits of an engine with those of torch in float32.

    Args:
        name: Of the engine, for the message.
        forward: Its forward pass.
        trial: (1, C, *S) float32, what both are given.
        expected: (1, out, *S) float32, of torch.
        most_apart: Largest RMS difference of the logits, as a share of their standard deviation.

    Raises:
        UserError: they differ by more.
    """
    apart = float((forward(trial) - expected).square().mean().sqrt() / expected.std())
    if not apart <= most_apart:
        what = (
            f"the engine {name} gives other logits than torch: {apart:.2g} of their spread apart, "
            f"{most_apart:g} allowed"
        )
        raise UserError(what, where="--engine", fix="use --engine torch")


ENGINES: Mapping[str, Engine] = {"torch": torch_engine, "openvino": openvino_engine}
