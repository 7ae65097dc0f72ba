"""From logits on the network's grid back to label maps on the input file's grid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from segkit.dataset.labels import BACKGROUND, LabelSchema
from segkit.files import atomic_write
from segkit.preprocessing.pipeline import CaseRecord, paste_into_stored_grid
from segkit.preprocessing.resample import apply_matrices, axis_matrices, separate_axis

LINEAR = 1


def logits_to_segmentation(
    logits: np.ndarray | Tensor,
    record: CaseRecord,
    schema: LabelSchema,
    invalid_stored: np.ndarray | None,
) -> np.ndarray:
    """Undo resampling, crop, transposition and orientation; decide every voxel.

    Logits are resampled (linearly) one channel at a time, so that memory does not grow with the
    number of classes. Classes: the largest logit wins, the first of several equal ones. Regions:
    painted in declaration order where the probability is above 0.5, later over earlier.
    Structures: each for itself, present where its probability is above 0.5.

    Args:
        logits: (out, Z, Y, X) on the preprocessed grid, in planned axis order.
        record: What preprocessing did to the case.
        schema: What the channels stand for.
        invalid_stored: (Z, Y, X) bool in the stored grid, voxels that become background; None
            for no such rule.

    Returns:
        Schema indices on the input file's grid, (1, Z, Y, X) int16, or (S, Z, Y, X) int8 for
        structures; background outside the crop.
    """
    assert len(logits) == schema.num_outputs, (len(logits), schema.num_outputs)
    indices = paste_into_stored_grid(_decide(_resampled(logits, record), schema), record)
    if invalid_stored is not None:
        indices[:, invalid_stored] = BACKGROUND
    return indices


def probabilities(
    logits: np.ndarray | Tensor,
    record: CaseRecord,
    schema: LabelSchema,
    invalid_stored: np.ndarray | None = None,
) -> np.ndarray:
    """Return softmax (classes) or sigmoid (regions, structures) of the resampled logits.

    Args:
        logits: (out, Z, Y, X) on the preprocessed grid, in planned axis order.
        record: What preprocessing did to the case.
        schema: What the channels stand for.
        invalid_stored: (Z, Y, X) bool in the stored grid, voxels that become background.

    Returns:
        (out, Z, Y, X) float32 in the stored grid. Outside the crop and on invalid voxels
        background is certain: channel 0 is 1 for classes, all channels are 0 for sigmoids.
    """
    resampled = np.stack(list(_resampled(logits, record)))
    inside = _sigmoid(resampled) if schema.sigmoid else _softmax(resampled)
    certain = [0.0] * len(inside)
    if not schema.sigmoid:
        certain[BACKGROUND] = 1.0
    result = np.empty((len(inside), *record.shape_stored), dtype=np.float32)
    for channel, target, outside in zip(inside, result, certain, strict=True):
        target[...] = paste_into_stored_grid(channel, record, outside)
        if invalid_stored is not None:
            target[invalid_stored] = outside
    return result


def save_probabilities(path: Path, probabilities: np.ndarray) -> None:
    """Write a compressed .npz with the float32 array ``probabilities``, as nnU-Net does."""
    with atomic_write(path) as stream:
        np.savez_compressed(stream, probabilities=probabilities.astype(np.float32, copy=False))


def _resampled(logits: np.ndarray | Tensor, record: CaseRecord) -> Iterator[np.ndarray]:
    """Bring one channel after the other to the grid before resampling, float32 (Z, Y, X)."""
    apart = separate_axis(record.spacing_resampled_mm, record.spacing_mm)
    shape = tuple(logits.shape[1:])
    assert shape == tuple(record.shape_resampled), (shape, record.shape_resampled)
    matrices = axis_matrices(shape, record.shape_after_crop, LINEAR, apart)
    for channel in logits:
        array = channel.float().cpu().numpy() if isinstance(channel, Tensor) else channel
        yield apply_matrices(array, matrices)


def _decide(channels: Iterator[np.ndarray], schema: LabelSchema) -> np.ndarray:
    """Turn the logits of all channels, one after the other, into (1 or S, Z, Y, X) indices."""
    if schema.overlapping:
        return np.stack([(channel > 0).astype(np.int8) for channel in channels])
    return (_paint(channels, schema) if schema.has_regions else _running_maximum(channels))[None]


def _running_maximum(channels: Iterator[np.ndarray]) -> np.ndarray:
    """Return the argmax over channels without holding them all, int16."""
    best = np.array(next(channels))
    winner = np.full(best.shape, BACKGROUND, dtype=np.int16)
    for index, channel in enumerate(channels, start=1):
        larger = channel > best
        winner[larger] = index
        np.copyto(best, channel, where=larger)
    return winner


def _paint(channels: Iterator[np.ndarray], schema: LabelSchema) -> np.ndarray:
    """Paint every region's class index where its logit is above 0, int16."""
    painted: np.ndarray | None = None
    for index, channel in zip(schema.paint_indices, channels, strict=True):
        if painted is None:
            painted = np.full(channel.shape, BACKGROUND, dtype=np.int16)
        painted[channel > 0] = index
    assert painted is not None
    return painted


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # tanh does not overflow where exp(-logit) would.
    return 0.5 + 0.5 * np.tanh(0.5 * logits)
