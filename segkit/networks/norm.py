"""Instance norm with LeakyReLU for channels-last features on a CPU, forward and backward.

torch computes instance norm as the batch norm of all samples side by side, which takes the
channels-last layout apart: features are copied before and after, in both directions, and an
activation in place on the result, a view, costs two more copies of the gradient. Sample by sample
batch norm reads and writes the layout as it is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segkit.precision import channels_last_format


def is_channels_last_on_cpu(features: Tensor) -> bool:
    """Whether :func:`channels_last_norm` is for them; those in both layouts at once are not.

    Nor is it for compilers, which see through torch's own operations only.
    """
    return (
        features.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not features.is_contiguous()
        and features.is_contiguous(memory_format=channels_last_format(features.ndim))
    )


def channels_last_norm(
    features: Tensor, weight: Tensor, bias: Tensor, *, eps: float, slope: float
) -> Tensor:
    """Instance norm, then LeakyReLU with ``slope`` (1: none), of channels-last (B, C, *S)."""
    result: Tensor = _ChannelsLastNorm.apply(features, weight, bias, eps, slope)
    return result


_ALL_GRADIENTS = [True] * 3


class _ChannelsLastNorm(torch.autograd.Function):
    """Keeps its input and, if activated, its output, as the next layer does; float32 statistics."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
    ) -> Tensor:
        result = torch.empty_like(features)
        statistics = torch.empty((2, *features.shape[:2]), dtype=weight.dtype)
        for sample, out, mean, scale in zip(features, result, *statistics, strict=True):
            torch.native_batch_norm(
                sample[None], weight, bias, None, None, True, 0.0, eps, out=(out[None], mean, scale)
            )
        if slope != 1:
            F.leaky_relu_(result, slope)
        # Without an activation the output says nothing that the gradient needs.
        kept = result if slope != 1 else None
        ctx.save_for_backward(features, kept, weight, statistics)
        ctx.eps, ctx.slope = eps, slope
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, result, weight, statistics = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=channels_last_format(gradient.ndim))
        if ctx.slope != 1:
            # The output has the sign of what went into the activation.
            gradient = torch.ops.aten.leaky_relu_backward(gradient, result, ctx.slope, True)
        downward = torch.empty_like(features)
        of_parameters = []
        samples = zip(gradient, features, downward, *statistics, strict=True)
        for upward, sample, out, mean, scale in samples:
            found, *rest = torch.ops.aten.native_batch_norm_backward(
                upward[None],
                sample[None],
                weight,
                None,
                None,
                mean,
                scale,
                True,
                ctx.eps,
                _ALL_GRADIENTS,
            )
            out.copy_(found[0])
            of_parameters.append(torch.stack(rest))
        return downward, *torch.stack(of_parameters).sum(0), None, None
