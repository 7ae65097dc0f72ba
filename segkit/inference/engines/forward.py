"""What an engine is, and what it makes of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from segkit.inference.engines.ranges import Ranges
from segkit.precision import Precision

Forward = Callable[[Tensor], Tensor]
"""(B, C, *patch) float32 to logits (B, out, *patch) float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """Runs networks."""

    start: Callable[[nn.Module, Tensor, Precision, Ranges], Forward]
    """Makes the forward pass of a network, which it may change, given a small input to try it on,
    a precision, and for integers the ranges of what convolutions are given (else empty)."""
    batch_voxels: int
    """Voxels of patches that go through a network together on a CPU."""
    most_apart: float = 0.0
    """Logits may differ from those of torch in float32 by this share of their spread (RMS), or by
    what the precision may cost where that is more."""
    on_gpu: bool = False
    quantized: bool = False
    """Whether it computes in integers: it needs to know ranges, and has torch round alike."""
