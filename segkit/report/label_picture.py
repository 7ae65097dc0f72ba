"""Label maps as colours over a grey image: one slice, plain numpy in, plain numpy out.

Every class has a colour of its own, and so have ignored and invalid voxels, which no class uses:
classes are saturated, the other two are not.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from segkit.dataset.labels import BACKGROUND, INVALID, LabelSchema
from segkit.dataset.structures import PRESENT

Colour = tuple[float, float, float]
"""Red, green and blue in 0..1."""

IGNORED_COLOUR: Colour = (0.85, 0.85, 0.78)
INVALID_COLOUR: Colour = (0.20, 0.20, 0.28)
_GOLDEN = 0.618034
_DARK = 0.7
_WINDOW = (1.0, 99.0)


def class_colours(count: int) -> list[Colour]:
    """Return as many colours, neighbours far apart; the first ones are always the same."""
    return [
        colorsys.hsv_to_rgb(i * _GOLDEN % 1, 0.9, _DARK if i // 6 % 2 else 1.0)
        for i in range(count)
    ]


def legend(schema: LabelSchema) -> list[tuple[str, Colour]]:
    """Name every colour: classes or structures, then ignored and invalid voxels."""
    colours = class_colours(len(schema.classes))
    named = [(one.name, colour) for one, colour in zip(schema.classes, colours, strict=True)]
    return [*named, ("ignored", IGNORED_COLOUR), ("invalid", INVALID_COLOUR)]


def window(plane: np.ndarray) -> tuple[float, float]:
    """Return the intensities shown as black and as white: the 1st and the 99th percentile."""
    low, high = np.percentile(plane, _WINDOW)
    return float(low), float(high)


def grey(plane: np.ndarray, shown: tuple[float, float] | None = None) -> np.ndarray:
    """Turn intensities (Y, X) into grey (Y, X, 3) in 0..1.

    Args:
        plane: Intensities. A constant image is black.
        shown: What is black and what is white; None takes the plane's :func:`window`.
    """
    low, high = window(plane) if shown is None else shown
    spread = high - low
    shade = np.clip((plane - low) / spread, 0, 1) if spread > 0 else np.zeros(plane.shape)
    return np.repeat(shade[..., None], 3, axis=-1)


def blend(
    picture: np.ndarray, indices: np.ndarray, schema: LabelSchema, strength: float = 0.5
) -> np.ndarray:
    """Lay the colours of labels over a picture.

    Args:
        picture: (Y, X, 3) in 0..1.
        indices: (1, Y, X) schema indices, or (S, Y, X) for structures: where several are present
            their colours are mixed.
        schema: What they mean.
        strength: Share of the colour, in 0..1.
    """
    colours = np.array(class_colours(len(schema.classes)))
    present = _present(indices, schema)
    count = present.sum(0)[..., None]
    mixed = np.einsum("syx,sc->yxc", present, colours) / np.maximum(count, 1)
    result = np.where(count > 0, (1 - strength) * picture + strength * mixed, picture)
    for mark, colour in (
        ((indices == schema.ignore_index).any(0), IGNORED_COLOUR),
        ((indices == INVALID).all(0), INVALID_COLOUR),
    ):
        covered = mark & (count[..., 0] == 0)
        result[covered] = (1 - strength) * picture[covered] + strength * np.array(colour)
    return result


def outline(picture: np.ndarray, mask: np.ndarray, colour: Colour) -> None:
    """Paint the voxels of a mask (Y, X) that touch others by an edge, in place."""
    inner = mask.copy()
    for axis in (0, 1):
        for step in (1, -1):
            inner &= np.roll(mask, step, axis)
    # What reaches the border of the picture is left open there, as it goes on behind it.
    inner[[0, -1]], inner[:, [0, -1]] = mask[[0, -1]], mask[:, [0, -1]]
    picture[mask & ~inner] = colour


def busiest_slice(indices: np.ndarray, schema: LabelSchema, axis: int) -> int:
    """Return the slice along an axis (of z, y, x) with most labelled voxels; the middle if none.

    Args:
        indices: (1 or S, Z, Y, X).
        schema: What they mean.
        axis: 0, 1 or 2.
    """
    others: Sequence[int] = [a for a in range(3) if a != axis]
    labelled = (
        (indices == PRESENT).any(0)
        if schema.overlapping
        else (indices[0] > BACKGROUND) & (indices[0] < schema.num_classes)
    )
    counts = labelled.sum(axis=tuple(others))
    return int(counts.argmax()) if counts.any() else len(counts) // 2


def _present(indices: np.ndarray, schema: LabelSchema) -> np.ndarray:
    """(classes, ...) bool: where each class or structure is."""
    if schema.overlapping:
        return np.asarray(indices == PRESENT)
    numbers = np.arange(1, schema.num_classes).reshape(-1, *[1] * (indices.ndim - 1))
    return np.asarray(indices[0] == numbers)
