"""From logits on the network's grid back to label maps on the input file's grid.

All of it happens slab by slab, a few output planes of all channels at a time, on the device where
the logits are: memory does not grow with the number of classes, and a slab stays in the cache.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from segkit.dataset.labels import BACKGROUND, LabelSchema
from segkit.errors import UserError
from segkit.files import atomic_write, failures_told
from segkit.preprocessing.pipeline import CaseRecord, cropped_view, matrices_back
from segkit.types import Shape

_SLAB_VOXELS = {"cpu": 1 << 18}
_SLAB_VOXELS_ELSEWHERE = 1 << 23
"""Output voxels of a slab: what fits a cache, or what fills a GPU."""


def slab_planes(plane: Sequence[int], device: torch.device, *, together: int = 1) -> int:
    """Return how many planes of a shape make a slab, at least one.

    Args:
        plane: Height and width.
        device: Where it is computed.
        together: Channels that are held at the same time.
    """
    voxels = _SLAB_VOXELS.get(device.type, _SLAB_VOXELS_ELSEWHERE)
    return max(1, voxels // max(1, together * math.prod(plane)))


@torch.inference_mode()
def logits_to_segmentation(
    logits: np.ndarray | Tensor,
    record: CaseRecord,
    schema: LabelSchema,
    invalid_stored: np.ndarray | None,
) -> np.ndarray:
    """Undo resampling, crop, transposition and orientation; decide every voxel.

    Classes: the largest logit wins, the first of several equal ones. Regions: painted in
    declaration order where the probability is above 0.5, later over earlier. Structures: each for
    itself, present where its probability is above 0.5.

    Args:
        logits: (out, Z, Y, X) on the preprocessed grid, in planned axis order; any device.
        record: What preprocessing did to the case.
        schema: What the channels stand for.
        invalid_stored: (Z, Y, X) bool in the stored grid, voxels that become background; None
            for no such rule.

    Returns:
        Schema indices on the input file's grid, (1, Z, Y, X) int16, or (S, Z, Y, X) int8 for
        structures; background outside the crop.
    """
    assert len(logits) == schema.num_outputs, (len(logits), schema.num_outputs)
    dtype = np.int8 if schema.overlapping else np.int16
    indices = np.full((schema.seg_channels, *record.shape_stored), BACKGROUND, dtype=dtype)
    for target, channels in _slabs(torch.as_tensor(logits), indices, record):
        target[...] = decide(channels, schema).numpy(force=True)
    if invalid_stored is not None:
        indices[:, invalid_stored] = BACKGROUND
    return indices


@torch.inference_mode()
def probabilities(
    logits: np.ndarray | Tensor,
    record: CaseRecord,
    schema: LabelSchema,
    invalid_stored: np.ndarray | None = None,
) -> np.ndarray:
    """Return softmax (classes) or sigmoid (regions, structures) of the resampled logits.

    Args:
        logits: (out, Z, Y, X) on the preprocessed grid, in planned axis order; any device.
        record: What preprocessing did to the case.
        schema: What the channels stand for.
        invalid_stored: (Z, Y, X) bool in the stored grid, voxels that become background.

    Returns:
        (out, Z, Y, X) float32 in the stored grid. Outside the crop and on invalid voxels
        background is certain: channel 0 is 1 for classes, all channels are 0 for sigmoids.
    """
    certain = 0.0 if schema.sigmoid else 1.0
    result = np.zeros((len(logits), *record.shape_stored), dtype=np.float32)
    result[BACKGROUND] = certain
    logits = torch.as_tensor(logits)
    for target, channels in _slabs(logits, result, record, together=len(logits)):
        slab = logits.new_empty(target.shape, dtype=torch.float32)
        for place, channel in zip(slab, channels, strict=True):
            place.copy_(channel)
        shares = slab.sigmoid_() if schema.sigmoid else slab.softmax(dim=0)
        target[...] = shares.numpy(force=True)
    if invalid_stored is not None:
        result[:, invalid_stored] = 0
        result[BACKGROUND, invalid_stored] = certain
    return result


def save_probabilities(path: Path, probabilities: np.ndarray) -> None:
    """Write a compressed .npz with the float32 array ``probabilities``, as nnU-Net does.

    Raises:
        UserError: the place cannot be written.
    """
    with failures_told(path), atomic_write(path) as stream:
        np.savez_compressed(stream, probabilities=probabilities.astype(np.float32, copy=False))


def load_probabilities(path: Path, shape: Shape) -> np.ndarray:
    """Read what :func:`save_probabilities` (or nnU-Net) wrote, float32.

    Raises:
        UserError: missing, damaged, or of another shape (outputs, z, y, x).
    """
    try:
        with np.load(path) as content:
            found = content["probabilities"].astype(np.float32, copy=False)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        what = f"the probabilities cannot be read: {error}"
        raise UserError(what, where=path, fix="predict the case again") from None
    if found.shape != tuple(shape):
        what = f"probabilities of shape {found.shape}; expected {tuple(shape)} (outputs, z, y, x)"
        raise UserError(what, where=path, fix="predict the case again, of the same image")
    return found


def shares_to_segmentation(shares: np.ndarray, schema: LabelSchema) -> np.ndarray:
    """Turn probabilities (out, Z, Y, X) into schema indices, as :func:`logits_to_segmentation`.

    Returns:
        (1, Z, Y, X) int16, or (S, Z, Y, X) int8 for structures.
    """
    dtype = np.int8 if schema.overlapping else np.int16
    indices = np.empty((schema.seg_channels, *shares.shape[1:]), dtype=dtype)
    step = slab_planes(shares.shape[2:], torch.device("cpu"), together=len(shares))
    for start in range(0, shares.shape[1], step):
        planes = slice(start, start + step)
        slab = torch.from_numpy(shares[:, planes].copy())
        indices[:, planes] = decide_shares(slab, schema).numpy()
    return indices


def _slabs(
    logits: Tensor, stored: np.ndarray, record: CaseRecord, *, together: int = 1
) -> Iterator[tuple[np.ndarray, Iterator[Tensor]]]:
    """Cut the crop into slabs: where each belongs in ``stored``, and its channels' logits.

    The target is a view (C, n, Y, X); the channels come one after the other, (n, Y, X) float32,
    resampled linearly to the grid before preprocessing. Slabs run along the axis that takes the
    nearest neighbour, if there is one, so that both others are interpolated linearly. They are the
    thinner, the more channels are held ``together``.
    """
    apart, matrices = matrices_back(record)
    front = apart or 0
    shape = tuple(logits.shape[1:])
    assert shape == tuple(record.shape_resampled), (shape, record.shape_resampled)
    matrix = matrices[front]
    logits = logits.movedim(1 + front, 1)
    targets = np.moveaxis(cropped_view(stored, record), 1 + front, 1)
    _, depth, *plane = targets.shape
    step = slab_planes(plane, logits.device, together=together)
    for start in range(0, depth, step):
        planes = slice(start, start + step)
        used, mix = (planes, None) if matrix is None else band(matrix[planes], logits.device)
        yield targets[:, planes], (interpolate(each[used], mix, plane) for each in logits)


def band(rows: np.ndarray, device: torch.device) -> tuple[slice, Tensor]:
    """Return the input planes that rows of a matrix use, and these columns of the rows."""
    used = np.flatnonzero(rows.any(axis=0))
    columns = slice(int(used[0]), int(used[-1]) + 1)
    return columns, torch.tensor(rows[:, columns], device=device)


def interpolate(planes: Tensor, mix: Tensor | None, shape: Sequence[int]) -> Tensor:
    """Mix planes, then interpolate inside them; a new (n, *shape) float32 tensor."""
    if mix is None:
        planes = planes.to(torch.float32, copy=True)
    else:
        planes = (mix @ planes.float().flatten(1)).unflatten(1, planes.shape[1:])
    if list(planes.shape[1:]) == list(shape):
        return planes
    # Pixels are aligned by their edges, as everywhere here.
    return functional.interpolate(planes[None], size=list(shape), mode="bilinear")[0]


def decide_shares(shares: Tensor, schema: LabelSchema) -> Tensor:
    """Turn probabilities (out, n, Y, X) into (1 or S, n, Y, X) indices, as logits are.

    The largest wins, the first of several equal ones; regions and structures are there where
    theirs is above 0.5. The probabilities are used up.
    """
    return decide(iter(shares - 0.5 if schema.sigmoid else shares), schema)


def decide(channels: Iterator[Tensor], schema: LabelSchema) -> Tensor:
    """Turn the logits of all channels, one after the other, into (1 or S, n, Y, X) indices.

    The channels are used up.

    Comparisons are in place: they give 0.0 or 1.0, several times as fast as they give booleans.
    """
    if schema.overlapping:
        return torch.stack([channel.gt_(0).to(torch.int8) for channel in channels])
    found = _paint(channels, schema) if schema.has_regions else _largest(channels)
    return found[None].to(torch.int16)


def _largest(channels: Iterator[Tensor]) -> Tensor:
    """Return the argmax over channels without holding them all, the first of equal ones."""
    best = next(channels)
    winner = torch.full_like(best, BACKGROUND)
    for index, channel in enumerate(channels, start=1):
        higher = torch.maximum(best, channel)
        # Indices ascend, so that of two winners the later one is the larger one.
        torch.maximum(winner, best.lt_(higher).mul_(index), out=winner)
        best = higher
    return winner


def _paint(channels: Iterator[Tensor], schema: LabelSchema) -> Tensor:
    """Paint every region's class index where its logit is above 0."""
    painted: Tensor | None = None
    for index, channel in zip(schema.paint_indices, channels, strict=True):
        if painted is None:
            painted = torch.full_like(channel, BACKGROUND)
        inside = channel.gt_(0)
        painted.mul_(1 - inside).add_(inside, alpha=int(index))
    assert painted is not None
    return painted
