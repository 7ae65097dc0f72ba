"""What an engine is: a function that makes the forward pass of a network."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from segkit.inference.engines.ranges import Ranges
from segkit.precision import Precision

Forward = Callable[[Tensor], Tensor]
"""(B, C, *patch) float32 to logits (B, out, *patch) float32."""
Engine = Callable[[nn.Module, Tensor, Precision, Ranges], Forward]
"""Makes the forward pass of a network, given a small input to try it on, a precision, and for
integers the ranges of what its convolutions are given."""
