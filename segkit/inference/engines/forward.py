"""What an engine is, and what it makes of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from segkit.errors import UserError
from segkit.inference.engines.ranges import Ranges
from segkit.precision import Precision

Forward = Callable[[Tensor], Tensor]
"""(B, C, *patch) float32 to logits (B, out, *patch) float32."""
MOST_APART: Mapping[torch.dtype, float] = {torch.float32: 1e-3, torch.bfloat16: 0.1}


class EngineFailed(UserError):
    """An engine is missing, or does not compute what torch does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """Runs networks."""

    start: Callable[[nn.Module, Tensor, Precision, Ranges], Forward]
    """Makes the forward pass of a network, which it may change, given a small input to try it on,
    a precision, and for integers the ranges of what convolutions are given (else empty)."""
    batch_voxels: int | None = None
    """Voxels of patches that go through a network together on a CPU; None: one patch at a time."""
    most_apart: Mapping[torch.dtype, float] = field(default_factory=lambda: MOST_APART)
    """By precision: logits may differ from torch's by this share of their spread (RMS)."""
    on_gpu: bool = False
    own_threads: bool = False
    """Whether it computes in other threads than torch's, which would be in its way: both wait for
    one another wherever torch has a small operation done by several."""
    quantized: bool = False
    """Whether it computes in integers: it needs to know ranges, and has torch round alike."""
