"""A picture of a case: its most labelled slice, plain and under its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from segkit.dataset.labels import INVALID, LabelSchema
from segkit.dataset.structures import PRESENT
from segkit.files import atomic_write
from segkit.report.label_picture import blend, busiest_slice, grey, legend
from segkit.report.legend import legend_handles
from segkit.types import Spacing


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
    """Name what the slice shows."""
    *classes, ignored, invalid = legend(schema)
    if schema.overlapping:
        seen = [
            pair
            for pair, channel in zip(classes, labels, strict=True)
            if (channel == PRESENT).any()
        ]
    else:
        seen = [pair for number, pair in enumerate(classes, start=1) if (labels == number).any()]
    marks = [ignored] if (labels == schema.ignore_index).any() else []
    marks += [invalid] if (labels == INVALID).all(0).any() else []
    return legend_handles(seen, marks)
