"""The engine OpenVINO: networks in float32 or bfloat16, and their convolutions in integers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit.errors import UserError
from segkit.inference.engines.forward import EngineFailed, Forward
from segkit.inference.engines.ranges import NotCalibrated, Ranges, quantizable
from segkit.networks.unet import UNet, fuse_upsamplings
from segkit.precision import Precision
from segkit.runtime import log

LEVELS = 256
"""Of an input. Weights have one less, so that they lie evenly around 0."""
SMALLEST_STEP = 1e-6
_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}
_TRIAL = """
import sys
sys.path[:] = {path!r}
sys.modules["openvino_telemetry"] = None
import numpy as np
import openvino
from openvino import opset13
image = opset13.parameter([2], np.float32)
model = openvino.compile_model(openvino.Model([opset13.relu(image)], [image]), "CPU")
print(model(np.float32([-1, 1]))[0].tolist())
"""


def openvino_engine(
    network: nn.Module, trial: Tensor, precision: Precision, ranges: Ranges
) -> Forward:
    """Run the network in OpenVINO, with as many threads as torch's.

    Raises:
        EngineFailed: OpenVINO is not installed.
    """
    fuse_upsamplings(network, traceable=True)
    return _compiled(_converted(network, trial), precision)


def openvino_int8_engine(
    network: nn.Module, trial: Tensor, precision: Precision, ranges: Ranges
) -> Forward:
    """Run the network in OpenVINO with convolutions in 8-bit integers.

    Args:
        network: A U-Net of segkit's; it then computes the same in torch, in rounded numbers.
        trial: (1, C, *S) float32.
        precision: Of everything else.
        ranges: Of the inputs of all convolutions that are computed so.

    Raises:
        UserError: the processor has no instructions for it, or the network is not segkit's.
        EngineFailed: OpenVINO is not installed.
        NotCalibrated: the ranges are those of another network.
    """
    check_int8(segkits=isinstance(network, UNet))
    fuse_upsamplings(network, traceable=True)
    quantized = quantizable(network)
    if quantized.keys() != ranges.keys():
        raise NotCalibrated("the ranges for int8 are those of another network")
    for name, module in quantized.items():
        low, high = ranges[name]
        _round_weights(module)
        module.register_forward_pre_hook(partial(_fake_quantized, low=low, high=high))
    converted = _converted(network, trial)
    if _quantize_weights(converted) != len(quantized):
        what = "this version of OpenVINO shows convolutions otherwise than expected"
        raise UserError(what, fix="use --engine openvino, and report it as an issue of segkit")
    return _compiled(converted, precision)


def has_int8() -> bool:
    """Whether the processor multiplies 8-bit integers faster than anything else.

    True where torch does not tell.
    """
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return not told or any(told.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def check_int8(*, segkits: bool) -> None:
    """Refuse what cannot be computed in integers, or is not faster so.

    Args:
        segkits: Whether the network is segkit's own, not a class of the user's.

    Raises:
        UserError: it is not, or the processor lacks the instructions.
        EngineFailed: OpenVINO is not installed.
    """
    fix = "predict with --engine openvino, or --engine torch"
    if not segkits:
        raise UserError("only networks of segkit's own are computed in int8", fix=fix)
    if not has_int8():
        what = "this processor has no instructions for convolutions in int8 (VNNI or AMX)"
        raise UserError(what, fix=fix)
    import_openvino()


def has_openvino() -> bool:
    """Whether the package is installed; it is not imported."""
    spec = importlib.util.find_spec("openvino")
    # A folder that only has its name has no origin.
    return spec is not None and spec.origin is not None


@cache
def openvino_works() -> bool:
    """Whether the package is there and computes on this machine; it is told if only the former.

    It is tried in a process of its own, for 0.15 s: versions of it have ended the whole program
    where they did not understand the machine's processors (openvinotoolkit/openvino#35943, #34262).
    """
    if not has_openvino():
        return False
    if getattr(sys, "frozen", False) or "python" not in Path(sys.executable or "").name.lower():
        why = "this program is not Python, in which to try it"
    else:
        why = _why_it_fails()
    if why:
        log.warning("OpenVINO is installed, but not used on this machine: %s", why)
    return not why


def _why_it_fails() -> str:
    """Try the package in another process; returns what is wrong, or nothing."""
    # It sees what this one sees, and nothing else: not what happens to lie in the working folder.
    command = [sys.executable, "-I", "-c", _TRIAL.format(path=sys.path)]
    try:
        tried = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if tried.returncode == 0 and tried.stdout.strip() == "[0.0, 1.0]":
        return ""
    log.debug("%s", tried.stderr)
    last = tried.stderr.strip().splitlines()[-1:] or ["it ends without a word"]
    return f"{last[0]} (exit code {tried.returncode})"


def import_openvino() -> Any:
    """Import the package.

    Raises:
        EngineFailed: it is not installed, or damaged.
    """
    # With this package OpenVINO would report its use over the network, without asking.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    fix = "pip install 'segkit[openvino]', or predict with --engine torch"
    if not has_openvino():
        raise EngineFailed("OpenVINO is not installed", fix=fix)
    try:
        import openvino
    except Exception as error:
        what = f"OpenVINO is installed, but cannot be imported: {type(error).__name__}: {error}"
        raise EngineFailed(what, fix=fix) from None
    return openvino


@cache
def _core() -> Any:
    """Return the one runtime of this process.

    It gives the thread that makes it a stack for signal handlers, and takes it back when it goes.
    Where several are made and go in another order, the stack that stays is gone from memory, and
    the next signal, such as Ctrl-C, ends the program with SIGSEGV (OpenVINO 2026.4).
    """
    return import_openvino().Core()


def _converted(network: nn.Module, trial: Tensor) -> Any:
    openvino = import_openvino()
    with torch.no_grad():
        # A trace of a small input converts in a quarter of the time and memory of a module. It is
        # not frozen, which would save 0.05 s, for torch never forgets the weights of those.
        traced = torch.jit.trace(network, trial, check_trace=False)
    return openvino.convert_model(traced)


def _compiled(model: Any, precision: Precision) -> Forward:
    """Compile a model for one input at a time, and anew where the shape is another.

    With a shape or batch size that is left open each pass takes 2 % longer, and convolutions in
    integers crash on processors with AMX (openvinotoolkit/openvino#37577, 2026.3).
    """
    settings = {
        "INFERENCE_PRECISION_HINT": _TYPES[precision.dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        # Several programs that share a machine would all take its first cores.
        "ENABLE_CPU_PINNING": False,
    }
    kept: dict[tuple[int, ...], Any] = {}

    def logits(image: Tensor) -> Tensor:
        shape = tuple(image.shape)
        if shape not in kept:
            kept.clear()
            fixed = model.clone()
            fixed.reshape(list(shape))
            kept[shape] = _core().compile_model(fixed, "CPU", settings)
        return torch.from_numpy(kept[shape](image.contiguous().numpy(), share_inputs=True)[0])

    def forward(batch: Tensor) -> Tensor:
        return logits(batch) if len(batch) == 1 else torch.cat(list(map(logits, batch.split(1))))

    return forward


def _fake_quantized(module: nn.Module, inputs: tuple[Tensor], *, low: float, high: float) -> Tensor:
    """Round the input of a convolution to the levels of its range; 0 is one of them."""
    step = max((high - low) / (LEVELS - 1), SMALLEST_STEP)
    zero_point = min(round(-low / step), LEVELS - 1)
    return torch.fake_quantize_per_tensor_affine(inputs[0], step, zero_point, 0, LEVELS - 1)


def _round_weights(module: Any) -> None:
    """Round the weights of a convolution to the levels of every output channel."""
    values = module.weight.data
    most = values.flatten(1).abs().amax(1).clamp(min=SMALLEST_STEP)
    steps = (most / (LEVELS // 2 - 1)).reshape(-1, *[1] * (values.ndim - 1))
    values.copy_((values / steps).round() * steps)


def _quantize_weights(model: Any) -> int:
    """Tell OpenVINO that the weights behind quantized inputs are integers; returns how many.

    They are rounded already, so that the levels told here are those they have.
    """
    from openvino import opset13

    done = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution":
            continue
        if node.input_value(0).get_node().get_type_name() != "FakeQuantize":
            continue
        weight = node.input_value(1)
        values = np.abs(weight.get_node().get_data())
        most = values.max(axis=tuple(range(1, values.ndim)), keepdims=True)
        most = most.clip(SMALLEST_STEP).astype(np.float32)
        quantized = opset13.fake_quantize(weight, -most, most, -most, most, LEVELS - 1)
        node.input(1).replace_source_output(quantized.output(0))
        done += 1
    model.validate_nodes_and_infer_types()
    return done
