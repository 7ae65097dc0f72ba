"""Pointwise intensity transforms of a batch (n, C, *S); each is a pure function.

Factors are (n, C), one per sample and channel. Statistics are over the voxels of a channel.
"""

from __future__ import annotations

import torch

TINY = 1e-7
"""Smallest divisor: a constant channel stays what it is."""


def add_noise(image: torch.Tensor, std: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Add standard normal ``noise`` times ``std`` (n,), the same in all channels."""
    return torch.addcmul(image, noise, _per_channel(std[:, None], image))


def scale_brightness(image: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply every channel by its factor."""
    return image * _per_channel(factor, image)


def scale_contrast(image: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Stretch every channel about its mean, clamped to its former range."""
    axes = _spatial_axes(image)
    mean = image.mean(axes, keepdim=True)
    stretched = (image - mean).mul_(_per_channel(factor, image)).add_(mean)
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    return torch.minimum(torch.maximum(stretched, low), high)


def gamma(image: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """Raise the range-normalised channel to its exponent; its mean and deviation are kept."""
    axes = _spatial_axes(image)
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    unit = (image - low).div_((high - low).clamp(min=TINY))
    # Several times faster than pow on a CPU; log 0 = -inf becomes 0 again.
    curved = unit.log_().mul_(_per_channel(exponent, image)).exp_()
    return _restore_statistics(curved, like=image)


def gamma_inverted(image: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """Gamma of the negative image: bends the bright end where ``gamma`` bends the dark one."""
    return gamma(image.neg(), exponent).neg_()


def _restore_statistics(image: torch.Tensor, *, like: torch.Tensor) -> torch.Tensor:
    """Shift and stretch every channel to the mean and deviation of ``like``."""
    axes = _spatial_axes(image)
    mean = like.mean(axes, keepdim=True)
    spread = torch.linalg.vector_norm(like - mean, dim=axes, keepdim=True)
    centred = image.sub_(image.mean(axes, keepdim=True))
    spread_now = torch.linalg.vector_norm(centred, dim=axes, keepdim=True)
    return centred.mul_(spread / spread_now.clamp(min=TINY)).add_(mean)


def _spatial_axes(image: torch.Tensor) -> tuple[int, ...]:
    return tuple(range(2, image.ndim))


def _per_channel(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """(n, C) or (n, 1) on any device, shaped to broadcast over (n, C, *S)."""
    return values.to(image.device).reshape(*values.shape, *(1,) * (image.ndim - 2))
