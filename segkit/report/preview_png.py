"""A sheet of patches, each beside what augmentation makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from segkit.dataset.labels import INVALID, LabelSchema
from segkit.dataset.structures import PRESENT
from segkit.files import atomic_write
from segkit.report.label_picture import (
    INVALID_COLOUR,
    Colour,
    blend,
    busiest_slice,
    class_colours,
    grey,
    legend,
    outline,
    window,
)
from segkit.report.legend import legend_handles
from segkit.training.preview import PatchPair
from segkit.types import Spacing

MOST_CHANNELS = 3
"""Channels shown of every patch."""
COLUMNS = 6
"""Pictures beside each other."""
PICTURE_INCHES = 2.2
FINE = 240
"""Small patches are enlarged to about so many pixels, that outlines are thin."""
STRENGTH = 0.45


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What is drawn besides the patches."""

    title: str
    schema: LabelSchema
    channel_names: tuple[str, ...]
    spacing_mm: Spacing
    """Of the patches, 2 or 3 axes: the pictures have these proportions."""


def draw_preview(path: Path, pairs: Sequence[PatchPair], sheet: Sheet) -> None:
    """Write a PNG: every patch as it is read, and to its right as it is augmented.

    A volume is shown by the slice with most labelled voxels, across its coarsest axis; both
    pictures of a channel have the same black and white.
    """
    shown = min(len(sheet.channel_names), MOST_CHANNELS)
    blocks = max(1, min(COLUMNS // (2 * shown), len(pairs)))
    rows = -(-len(pairs) // blocks)
    size = (PICTURE_INCHES * 2 * shown * blocks, (PICTURE_INCHES + 0.35) * rows + 1.2)
    figure = Figure(figsize=(max(size[0], 5), size[1]), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 2 * shown * blocks, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    pictures = [picture for pair in pairs for picture in _pictures(pair, sheet, shown)]
    for axes, (name, picture, proportion) in zip(grid, pictures, strict=False):
        axes.imshow(picture, aspect=proportion, interpolation="nearest")
        axes.set_title(name, fontsize=7)
    figure.suptitle(sheet.title, fontsize=9)
    names = _handles(pairs, sheet.schema)
    if names:
        figure.legend(handles=names, loc="outside lower center", ncols=6, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        canvas.print_png(stream)


def _pictures(pair: PatchPair, sheet: Sheet, shown: int) -> list[tuple[str, np.ndarray, float]]:
    """Name, picture (Y, X, 3) and height of a pixel relative to its width, of every channel."""
    spacing_mm = (1.0,) * (3 - len(sheet.spacing_mm)) + tuple(sheet.spacing_mm)
    flat = pair.image.ndim == 3
    axis = 0 if flat else int(np.argmax(spacing_mm))
    rows, columns = (value for other, value in enumerate(spacing_mm) if other != axis)
    planes = [
        _plane(image, seg, sheet.schema, axis)
        for image, seg in ((pair.image, pair.seg), (pair.augmented_image, pair.augmented_seg))
    ]
    pictures = []
    for channel, name in enumerate(sheet.channel_names[:shown]):
        levels = window(planes[0].image[channel])
        for plane, what in zip(planes, (pair.case, "augmented"), strict=True):
            picture = draw_labels(grey(plane.image[channel], levels), plane.labels, sheet.schema)
            title = what if len(sheet.channel_names) == 1 else f"{what}, {name}"
            title += "" if flat else f", {'zyx'[axis]} {plane.place + 1}/{plane.count}"
            pictures.append((title, picture, rows / columns))
    return pictures


@dataclass(frozen=True, kw_only=True)
class _Plane:
    image: np.ndarray
    """(C, Y, X)."""
    labels: np.ndarray
    """(1 or S, Y, X)."""
    place: int
    count: int


def _plane(image: np.ndarray, seg: np.ndarray, schema: LabelSchema, axis: int) -> _Plane:
    image, seg = (array if array.ndim == 4 else array[:, None] for array in (image, seg))
    place = busiest_slice(seg, schema, axis)
    return _Plane(
        image=image.take(place, axis + 1),
        labels=seg.take(place, axis + 1),
        place=place,
        count=image.shape[axis + 1],
    )


def draw_labels(picture: np.ndarray, labels: np.ndarray, schema: LabelSchema) -> np.ndarray:
    """Lay labels over a picture: classes as areas, what may overlap as outlines.

    Args:
        picture: (Y, X, 3) in 0..1.
        labels: (1 or S, Y, X) schema indices.
        schema: What they mean.

    Returns:
        (k Y, k X, 3), enlarged a whole number of times.
    """
    times = max(1, round(FINE / max(picture.shape[:2])))
    marked = blend(picture, _unlabelled(labels, schema), schema, STRENGTH)
    marked[(labels == INVALID).all(0)] = INVALID_COLOUR  # there is no image to shine through
    result = _enlarged(marked, times).clip(0, 1)
    for mask, colour in zip(*_outlined(labels, schema), strict=True):
        outline(result, _enlarged(mask, times), colour)
    return result


def _unlabelled(labels: np.ndarray, schema: LabelSchema) -> np.ndarray:
    """Leave only what is drawn as areas: of sigmoid targets, ignored and invalid voxels."""
    if not schema.sigmoid:
        return labels
    return np.where((labels == INVALID) | (labels == schema.ignore_index), labels, 0)


def _outlined(labels: np.ndarray, schema: LabelSchema) -> tuple[list[np.ndarray], list[Colour]]:
    """Masks (Y, X) of the regions or structures, and their colours."""
    if schema.overlapping:
        masks = [channel == PRESENT for channel in labels]
    elif schema.has_regions:
        inside = np.clip(labels[0], 0, schema.num_classes)
        members = np.pad(schema.region_members, ((0, 0), (0, 1)))
        masks = [row[inside] for row in members]
    else:
        return [], []
    return masks, class_colours(len(masks))


def _enlarged(array: np.ndarray, times: int) -> np.ndarray:
    return array.repeat(times, 0).repeat(times, 1)


def _handles(pairs: Sequence[PatchPair], schema: LabelSchema) -> list[Patch]:
    """Name every colour that occurs in the patches."""
    segs = [seg for pair in pairs for seg in (pair.seg, pair.augmented_seg)]
    *classes, ignored, invalid = legend(schema)
    if schema.sigmoid:
        colours = class_colours(len(schema.target_names))
        classes = list(zip(schema.target_names, colours, strict=True))
        seen = [False] * len(classes)
        for seg in segs:
            masks, _ = _outlined(seg.reshape(len(seg), -1, seg.shape[-1]), schema)
            seen = [before or bool(mask.any()) for before, mask in zip(seen, masks, strict=True)]
    else:
        present = {int(value) for seg in segs for value in np.unique(seg)}
        seen = [number in present for number in range(1, schema.num_classes)]
    named = [pair for pair, there in zip(classes, seen, strict=True) if there]
    values = ((ignored, schema.ignore_index), (invalid, INVALID))
    marks = [mark for mark, value in values if any((seg == value).any() for seg in segs)]
    return legend_handles(named, marks)
