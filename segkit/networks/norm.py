"""Instance norm with LeakyReLU for channels-last features on a CPU, forward and backward.

torch computes instance norm as the batch norm of all samples side by side, which takes the
channels-last layout apart: features are copied before and after, in both directions, and an
activation in place on the result, a view, costs two more copies of the gradient. Sample by sample
batch norm reads and writes the layout as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
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


_SLAB_VOXELS = 1 << 12
"""torch adds up the voxels of a channel one after the other in float32; over more than these the
sums are off by more than the features' own rounding (a million voxels: the variance by 5e-4)."""


def channels_last_norm(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    slope: float,
    in_place: bool = False,
) -> Tensor:
    """Instance norm, then LeakyReLU with ``slope`` (1: none), of channels-last (B, C, *S).

    In place it has no gradient.
    """
    if in_place:
        _normalize_all(features, (weight, bias), eps, slope, out=features)
        return features
    result: Tensor = _ChannelsLastNorm.apply(features, weight, bias, eps, slope)
    return result


def _normalize_all(
    features: Tensor, affine: tuple[Tensor, Tensor], eps: float, slope: float, *, out: Tensor
) -> Tensor:
    """Normalise every sample into ``out``; returns (2, B, C), means and inverse deviations."""
    statistics = torch.empty((2, *features.shape[:2]), dtype=affine[0].dtype)
    for sample, result, mean, scale in zip(features, out, *statistics, strict=True):
        _normalize(sample, affine, eps, (result, mean, scale))
        if slope != 1:
            F.leaky_relu_(result, slope)
    return statistics


def _normalize(
    sample: Tensor, affine: tuple[Tensor, Tensor], eps: float, out: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Normalise (C, *S) into ``out``, with its mean and the inverse of its deviation."""
    result, mean, scale = out
    places = result[None], mean, scale
    slabs = min(sample.shape[1], sample[0].numel() // _SLAB_VOXELS)
    if slabs < 2 or sample.dtype != torch.float32:
        torch.native_batch_norm(sample[None], *affine, None, None, True, 0.0, eps, out=places)
        return
    found, variance = _statistics(sample.tensor_split(slabs, dim=1))
    torch.native_batch_norm(sample[None], *affine, found, variance, False, 0.0, eps, out=places)
    mean.copy_(found)
    torch.rsqrt(variance + eps, out=scale)


def _statistics(slabs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the channels of slabs (C, *S) together (Chan et al. 1983)."""
    found = [torch.batch_norm_update_stats(slab[None], None, None, 0.0) for slab in slabs]
    means, variances = (torch.stack(each).double() for each in zip(*found, strict=True))
    shares = torch.tensor([slab[0].numel() for slab in slabs], dtype=torch.float64)[:, None]
    shares /= shares.sum()
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return mean.float(), variance.float()


_ALL_GRADIENTS = [True] * 3


class _ChannelsLastNorm(torch.autograd.Function):
    """Keeps its input and, if activated, its output, as the next layer does; float32 statistics."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
    ) -> Tensor:
        result = torch.empty_like(features)
        statistics = _normalize_all(features, (weight, bias), eps, slope, out=result)
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
