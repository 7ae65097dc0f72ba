"""Number format of the forward pass in training and prediction; light to import."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from segkit.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Number format of the forward pass; in training, weights and loss stay float32."""

    device_type: str
    dtype: torch.dtype

    @property
    def name(self) -> PrecisionName:
        """What a recipe calls it; never auto."""
        names: dict[str, PrecisionName] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
        return names[str(self.dtype).removeprefix("torch.")]

    @property
    def exact(self) -> Precision:
        """The same device in float32."""
        import torch

        return replace(self, dtype=torch.float32)

    def forward(self, network: Callable[[Tensor], Any], image: Tensor) -> Any:
        """Run a network in this number format, its features laid out as the device likes them.

        On a CPU the channels of a voxel lie side by side: oneDNN computes on that layout as it is
        and would reorder any other before and after every convolution.
        """
        with self.autocast():
            return network(channels_last(image) if self.device_type == "cpu" else image)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Run the forward pass in ``dtype``."""
        import torch

        if self.dtype == torch.float32:
            yield
            return
        with torch.autocast(self.device_type, dtype=self.dtype):
            yield


def choose_precision(name: PrecisionName, device: torch.device) -> Precision:
    """Resolve ``auto``: fp16 on CUDA, bf16 on CPUs that are faster in it, else fp32.

    Raises:
        UserError: unknown name, or fp16 was asked for on a CPU.
    """
    import torch

    if name not in (names := get_args(PrecisionName)):
        raise UserError(f"unknown precision {name!r}", fix=f"use one of {', '.join(names)}")
    if name == "auto":
        native = {"cuda": "fp16", "cpu": "bf16" if _cpu_is_faster_in_bf16() else "fp32"}
        name = native.get(device.type, "fp32")  # type: ignore[assignment]
    if name == "fp16" and device.type == "cpu":
        fix = "use bf16, fp32 or auto"
        raise UserError("fp16 needs a GPU", where="precision", fix=fix)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return Precision(device_type=device.type, dtype=dtypes[name])


def channels_last(batch: Tensor) -> Tensor:
    """Return (B, C, *S) with the channels of a voxel side by side in memory, as a copy."""
    import torch

    # Strides of a single channel say nothing to torch's `contiguous`; here they always do.
    return torch.empty_like(batch, memory_format=channels_last_format(batch.ndim)).copy_(batch)


def channels_last_format(ndim: int) -> torch.memory_format:
    """Torch's name of that layout for a batch of planes (4 axes) or volumes (5)."""
    import torch

    return {4: torch.channels_last, 5: torch.channels_last_3d}[ndim]


GAIN = 0.9
"""bf16 must take less than this share of the time of fp32, so that a near tie has one winner."""


@functools.cache
def _cpu_is_faster_in_bf16() -> bool:
    """Whether the CPU has instructions for bf16, and convolves faster with them.

    Having them is not enough: some CPUs, or virtual machines that hide the matrix units, are
    slower in it. It is measured in a few hundredths of a second, once a process.
    """
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return False
    exact, reduced = convolution_seconds(torch.float32, torch.bfloat16)
    return reduced < GAIN * exact


def convolution_seconds(*dtypes: torch.dtype) -> list[float]:
    """Time a small convolution like those of a U-Net in each format: the best of some tries."""
    import torch

    features = channels_last(torch.ones(1, 32, 8, 24, 24))
    kernels = channels_last(torch.ones(32, 32, 3, 3, 3))
    best = [float("inf")] * len(dtypes)
    # In turn, so that what else the machine does slows all down; the first try is to warm up.
    with torch.inference_mode():
        for attempt in range(3):
            for i, dtype in enumerate(dtypes):
                operands = features.to(dtype), kernels.to(dtype)
                begun = time.perf_counter()
                torch.nn.functional.conv3d(*operands, padding=1)
                seconds = time.perf_counter() - begun
                best[i] = min(best[i], seconds) if attempt else best[i]
    return best
