"""A picture of a case: its most labelled slice, plain and under its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from segkit.dataset.labels import INVALID, LabelSchema
from segkit.files import atomic_write
from segkit.report.label_picture import blend, busiest_slice, grey, legend
from segkit.types import Spacing

_MOST_NAMES = 24
"""Classes that a legend has room for."""


def draw_overlay(
    path: Path, image: np.ndarray, indices: np.ndarray, schema: LabelSchema, spacing_mm: Spacing
) -> None:
    """Write a PNG with the slice that has most labelled voxels, along the coarsest axis.

    Args:
        path: The file.
        image: (Z, Y, X) intensities.
        indices: (1, Z, Y, X), or (S, Z, Y, X) for structures, schema indices.
        schema: What they mean.
        spacing_mm: (z, y, x); the picture has these proportions.
    """
    axis = int(np.argmax(spacing_mm))
    place = busiest_slice(indices, schema, axis)
    plane, labels = image.take(place, axis), indices.take(place, axis + 1)
    rows, columns = (spacing for a, spacing in enumerate(spacing_mm) if a != axis)
    figure = Figure(figsize=(10, 6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    shade = grey(plane)
    for axes, picture in zip(
        figure.subplots(1, 2), (shade, blend(shade, labels, schema)), strict=True
    ):
        axes.imshow(picture, aspect=rows / columns, interpolation="nearest")
        axes.set_axis_off()
    figure.suptitle(f"{path.stem}: slice {place} along {'zyx'[axis]}")
    figure.legend(handles=_handles(labels, schema), loc="outside lower center", ncols=6)
    with atomic_write(path) as stream:
        canvas.print_png(stream)


def _handles(labels: np.ndarray, schema: LabelSchema) -> list[Patch]:
    """Name what the slice shows; of many classes the first ones."""
    *classes, ignored, invalid = legend(schema)
    if schema.overlapping:
        seen = [pair for pair, channel in zip(classes, labels, strict=True) if (channel == 1).any()]
    else:
        seen = [pair for number, pair in enumerate(classes, start=1) if (labels == number).any()]
    seen = seen[:_MOST_NAMES]
    seen += [ignored] if (labels == schema.ignore_index).any() else []
    seen += [invalid] if (labels == INVALID).all(0).any() else []
    return [Patch(color=colour, label=name) for name, colour in seen]
