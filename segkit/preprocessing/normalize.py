"""Intensity normalisation, one scheme a channel (nnU-Net's; Isensee et al., Nature Methods 2021).

Invalid voxels carry no information: but for plans that follow nnU-Net, they enter no mean, no
deviation, no minimum and no maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from segkit.errors import UserError
from segkit.planning.plan import IntensityStatistics, Normalization

_EPS = 1e-8


def normalize(
    image_czyx: np.ndarray,
    counted_zyx: Sequence[np.ndarray],
    schemes: Sequence[Normalization],
    intensities: Sequence[IntensityStatistics],
    source: object = None,
) -> np.ndarray:
    """Normalise every channel by its scheme.

    Args:
        image_czyx: (C, Z, Y, X); left as it is.
        counted_zyx: For every channel (Z, Y, X) bool, the voxels whose statistics count. Where
            none does, a channel comes out as if its mean were 0 and its deviation 1.
        schemes: One a channel.
        intensities: The training cases' statistics of every channel (used by ``ct``).
        source: File or case, for the message.

    Returns:
        (C, Z, Y, X) float32, a new array. Constant channels come out finite.

    Raises:
        UserError: an ``rgb_to_0_1`` channel has values outside 0..255.
    """
    result = np.array(image_czyx, dtype=np.float32, order="C")
    channels = zip(result, counted_zyx, schemes, intensities, strict=True)
    for channel, counted, scheme, statistics in channels:
        if scheme == "rgb_to_0_1":
            _check_colours(channel, source)
        _SCHEMES[scheme](channel, counted, statistics)
    return result


def clear_outside(
    image_czyx: np.ndarray, mask_zyx: np.ndarray, inside_mask: Sequence[bool]
) -> None:
    """Set the channels that are normalised inside the mask only to 0 outside it, in place.

    Args:
        image_czyx: (C, Z, Y, X).
        mask_zyx: (Z, Y, X) bool, where the image holds something.
        inside_mask: One a channel.
    """
    for channel, inside in zip(image_czyx, inside_mask, strict=True):
        if inside:
            channel[~mask_zyx] = 0


def _zscore(channel: np.ndarray, valid: np.ndarray, _: IntensityStatistics) -> None:
    """Subtract the case's mean and divide by its standard deviation."""
    values = channel[valid]
    if not values.size:
        return
    mean = np.float32(values.mean(dtype=np.float64))
    values -= mean
    variance = np.square(values, out=values).mean(dtype=np.float64)
    channel -= mean
    channel /= _safe(np.sqrt(variance))


def _ct(channel: np.ndarray, _: np.ndarray, statistics: IntensityStatistics) -> None:
    """Clip to the training foreground's 0.5 and 99.5 percentile, then its z-score."""
    np.clip(channel, statistics.percentile_00_5, statistics.percentile_99_5, out=channel)
    channel -= np.float32(statistics.mean)
    channel /= _safe(statistics.std)


def _rescale(channel: np.ndarray, valid: np.ndarray, _: IntensityStatistics) -> None:
    """Map the case's range to 0..1; invalid voxels are kept inside it."""
    values = channel[valid]
    if not values.size:
        return
    low, high = values.min(), values.max()
    channel -= low
    channel /= max(high - low, np.float32(_EPS))
    np.clip(channel, 0, 1, out=channel)


def _rgb(channel: np.ndarray, _: np.ndarray, __: IntensityStatistics) -> None:
    """Map 0..255 to 0..1."""
    channel /= np.float32(255)


def _check_colours(channel: np.ndarray, source: object) -> None:
    low, high = channel.min(), channel.max()
    if low < 0 or high > 255:
        what = f"values {low:g} to {high:g} are not 8-bit colours (0 to 255)"
        fix = "give the channel another name in dataset.json, e.g. 'zscore' or 'rescale_to_0_1'"
        raise UserError(what, where=source, fix=fix)


def _none(_: np.ndarray, __: np.ndarray, ___: IntensityStatistics) -> None:
    """Leave the values as they are."""


def _safe(deviation: float) -> np.float32:
    """A constant channel has nothing to scale."""
    return np.float32(deviation if deviation > _EPS else 1.0)


_SCHEMES: dict[str, Callable[[np.ndarray, np.ndarray, IntensityStatistics], None]] = {
    "zscore": _zscore,
    "ct": _ct,
    "rescale_to_0_1": _rescale,
    "rgb_to_0_1": _rgb,
    "none": _none,
}
