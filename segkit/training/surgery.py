"""Weights made to fit a network they were not trained in; each a function of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def channel_mixing(old: Sequence[str], new: Sequence[str]) -> Tensor:
    """Say what each new input channel takes over of the old ones: (new, old) shares.

    Channels of one name keep their kernels. What the old network saw and no longer is there goes
    to the channels that are new: one to one in their order where they are as many, else in equal
    shares, which keep the size of the response where channels look alike. Where nothing is left to
    take over, new channels begin at 0, and the network as it was.

    Every column sums to 1, but for old channels that nothing takes the place of: those sum to 0.
    """
    before, now = ([name.strip().casefold() for name in names] for names in (old, new))
    mixing = torch.zeros(len(now), len(before))
    for name in set(now):
        _share(mixing, _places(now, name), _places(before, name))
    left_old = [j for j, name in enumerate(before) if name not in now]
    left_new = [i for i, name in enumerate(now) if name not in before]
    _share(mixing, left_new, left_old)
    return mixing


def with_class_channels(mixing: Tensor, old: Sequence[str], new: Sequence[str]) -> Tensor:
    """Extend a mixing by the channels of a cascade, which come after the image's.

    They go by the names of their classes; those that are new begin at 0.
    """
    kept = torch.zeros(len(new), len(old))
    for i, name in enumerate(new):
        if name in old:
            kept[i, list(old).index(name)] = 1
    return torch.block_diag(mixing, kept)


def mixed_inputs(weight: Tensor, mixing: Tensor) -> Tensor:
    """Kernels (out, old, *K) for other input channels: (out, new, *K)."""
    return torch.einsum("no,fo...->fn...", mixing.to(weight), weight)


def fitted_kernel(weight: Tensor, kernel: Sequence[int]) -> Tensor:
    """Give convolution weights (out, in, *K) another kernel, around the same centre.

    A kernel that grows is surrounded by zeros, and computes what it did; one that shrinks loses
    its rim. A plane's kernel is that of a volume with one slice. A volume's is summed over its
    slices for a plane: that is what it computes where nothing changes from slice to slice
    (Carreira & Zisserman 2017 go the other way). Measured on Hippocampus, a 2D network begins with
    a Dice of 0.30 by the sum, and of 0 by the middle slice.
    """
    while weight.ndim - 2 > len(kernel):
        weight = weight.sum(2)
    weight = _with_axes(weight, len(kernel))
    for axis, size in enumerate(kernel, start=2):
        weight = _about_centre(weight, axis, size)
    return weight


def fitted_upsampling(weight: Tensor, stride: Sequence[int]) -> Tensor | None:
    """Give transposed convolution weights (in, out, *S), whose kernel is the stride, another one.

    A stride that grows repeats voxels, one that shrinks averages them; None where neither stride
    is a multiple of the other.
    """
    while weight.ndim - 2 > len(stride):
        weight = weight.mean(2)
    weight = _with_axes(weight, len(stride))
    for axis, size in enumerate(stride, start=2):
        there = weight.shape[axis]
        if size % there == 0:
            weight = weight.repeat_interleave(size // there, dim=axis)
        elif there % size == 0:
            weight = weight.unflatten(axis, (size, -1)).mean(axis + 1)
        else:
            return None
    return weight


def taken_outputs(fresh: Tensor, weight: Tensor, outputs: Mapping[int, int]) -> Tensor:
    """Return ``fresh`` (new, ...) with the channels of ``weight`` (old, ...) that are known.

    Args:
        fresh: Weights or biases of an output layer.
        weight: Of another one, alike but for its channels.
        outputs: New channel -> old channel.
    """
    result = fresh.clone()
    result[list(outputs)] = weight[list(outputs.values())].to(fresh)
    return result


def _share(mixing: Tensor, rows: Sequence[int], columns: Sequence[int]) -> None:
    if len(rows) == len(columns):
        mixing[rows, columns] = 1
        return
    for row in rows:
        mixing[row, list(columns)] = 1 / len(rows)


def _places(names: Sequence[str], name: str) -> list[int]:
    return [place for place, other in enumerate(names) if other == name]


def _with_axes(weight: Tensor, ndim: int) -> Tensor:
    """Put axes of size 1 before the spatial ones until there are ``ndim``."""
    while weight.ndim - 2 < ndim:
        weight = weight.unsqueeze(2)
    return weight


def _about_centre(weight: Tensor, axis: int, size: int) -> Tensor:
    """Crop or pad one axis to an odd size, evenly on both sides."""
    there = weight.shape[axis]
    if there >= size:
        return weight.narrow(axis, (there - size) // 2, size)
    shape = list(weight.shape)
    shape[axis] = size
    padded = weight.new_zeros(shape)
    padded.narrow(axis, (size - there) // 2, there).copy_(weight)
    return padded
