"""The engine OpenVINO: networks in float32 or bfloat16, and their convolutions in integers."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit.errors import UserError
from segkit.inference.engines.forward import Forward
from segkit.inference.engines.ranges import Ranges, quantizable
from segkit.networks.unet import UNet, fuse_upsamplings
from segkit.precision import Precision

LEVELS = 256
"""Of an input; a weight has one less, so that they lie evenly around 0."""
_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}
_CONVOLUTIONS = {"Convolution": 0, "ConvolutionBackpropData": 1}
"""Kind of a node -> which axis of its weights are the output channels."""


def openvino_engine(
    network: nn.Module, trial: Tensor, precision: Precision, ranges: Ranges
) -> Forward:
    """Run the network in OpenVINO, compiled for any shape and as many threads as torch's.

    Raises:
        UserError: OpenVINO is not installed.
    """
    openvino = import_openvino()
    fuse_upsamplings(network, for_any_shape=True)
    return _compiled(openvino, _converted(openvino, network, trial), precision)


def openvino_int8_engine(
    network: nn.Module, trial: Tensor, precision: Precision, ranges: Ranges
) -> Forward:
    """Run the network in OpenVINO with convolutions in 8-bit integers.

    Args:
        network: A U-Net of segkit's.
        trial: (1, C, *S) float32.
        precision: Of everything else.
        ranges: Of the inputs of all convolutions that are computed so.

    Raises:
        UserError: OpenVINO is not installed, the processor has no instructions for it, or the
            network is not segkit's or not the one that was measured.
    """
    openvino = import_openvino()
    check_int8(network)
    fuse_upsamplings(network, for_any_shape=True)
    rounded = quantizable(network)
    if rounded.keys() != ranges.keys():
        fix = "measure again with segkit quantize"
        raise UserError("the ranges are those of another network", where="int8.json", fix=fix)
    for name, module in rounded.items():
        low, high = ranges[name]
        if isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
            low = 0.0  # OpenVINO computes these in integers only where 0 is the lowest level.
        module.register_forward_pre_hook(partial(_rounded, low=low, high=high))
    converted = _converted(openvino, network, trial)
    _round_weights(openvino, converted)
    return _compiled(openvino, converted, precision)


def has_int8() -> bool:
    """Whether the processor multiplies 8-bit integers faster than anything else."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def check_int8(network: nn.Module) -> None:
    """Refuse what cannot be computed in integers, or is not faster so.

    Raises:
        UserError: the network is a class of the user's, or the processor lacks the instructions.
    """
    if not has_int8():
        what = "this processor has no instructions for convolutions in int8 (VNNI or AMX)"
        raise UserError(what, where="--engine openvino-int8", fix="use --engine openvino")
    if not isinstance(network, UNet):
        what = "only networks of segkit's own are computed in int8"
        raise UserError(what, where="--engine openvino-int8", fix="use --engine openvino")


def import_openvino() -> Any:
    """Import the package.

    Raises:
        UserError: it is not installed.
    """
    # With this package OpenVINO would report its use over the network, without asking.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        fix = "pip install 'segkit[openvino]', or use --engine torch"
        raise UserError("OpenVINO is not installed", where="--engine openvino", fix=fix) from None
    return openvino


def _converted(openvino: Any, network: nn.Module, trial: Tensor) -> Any:
    with torch.no_grad():
        # A frozen trace of a small input converts in a tenth of the time and memory of a module.
        traced = torch.jit.freeze(torch.jit.trace(network, trial, check_trace=False))
    return openvino.convert_model(traced)


def _compiled(openvino: Any, model: Any, precision: Precision) -> Forward:
    settings = {
        "INFERENCE_PRECISION_HINT": _TYPES[precision.dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.compile_model(model, "CPU", settings)

    def forward(batch: Tensor) -> Tensor:
        return torch.from_numpy(compiled(batch.contiguous().numpy(), share_inputs=True)[0])

    return forward


def _rounded(module: nn.Module, inputs: tuple[Tensor], *, low: float, high: float) -> Tensor:
    """Round the input of a convolution to the levels of its range, of which one is 0."""
    step = max(high - low, 1e-6) / (LEVELS - 1)
    zero = min(max(round(-low / step), 0), LEVELS - 1)
    return torch.fake_quantize_per_tensor_affine(inputs[0], step, zero, 0, LEVELS - 1)


def _round_weights(openvino: Any, model: Any) -> None:
    """Round the weights behind every rounded input, by output channel."""
    from openvino import opset13

    for node in model.get_ordered_ops():
        axis = _CONVOLUTIONS.get(node.get_type_name())
        if axis is None or node.input_value(0).get_node().get_type_name() != "FakeQuantize":
            continue
        weight = node.input_value(1)
        values = np.abs(weight.get_node().get_data())
        others = tuple(i for i in range(values.ndim) if i != axis)
        most = np.maximum(values.max(axis=others, keepdims=True), 1e-12).astype(np.float32)
        rounded = opset13.fake_quantize(weight, -most, most, -most, most, LEVELS - 1)
        node.input(1).replace_source_output(rounded.output(0))
    model.validate_nodes_and_infer_types()
