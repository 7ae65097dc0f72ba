"""Pictures of cases under their labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from segkit import options as opt
from segkit.dataset.cases import Case, largest_case
from segkit.dataset.description import DatasetDescription
from segkit.dataset.image_io import read_image
from segkit.dataset.label_files import read_annotation
from segkit.dataset.labels import BACKGROUND, INVALID
from segkit.dataset.nonzero import nonzero_mask
from segkit.errors import UserError
from segkit.evaluation.pairs import find_label_map
from segkit.parallel import choose_jobs, map_cases
from segkit.report.overlay_png import draw_overlay
from segkit.runtime import log
from segkit.workflows.common import Outcome, open_dataset

_BYTES_PER_VOXEL = 24


@dataclass(frozen=True, kw_only=True)
class Overlays:
    """What is drawn of every case, and where."""

    description: DatasetDescription
    channel: int
    folder: Path


def overlay(options: opt.Overlay) -> Outcome[tuple[Path, ...]]:
    """Draw the training cases of a dataset; see :class:`segkit.options.Overlay`."""
    dataset = open_dataset(options)
    description, cases = dataset.description, list(dataset.cases)
    names = description.channel_names
    if not 0 <= options.channel < len(names):
        what = f"there is no channel {options.channel}"
        fix = f"use 0 to {len(names) - 1}: {', '.join(names)}"
        raise UserError(what, where="--channel", fix=fix)
    if options.predictions is not None:
        cases = _predicted(cases, options.predictions, description)
    drawn = Overlays(description=description, channel=options.channel, folder=options.output)
    options.output.mkdir(parents=True, exist_ok=True)
    pictures = map_cases(
        partial(_draw, drawn),
        cases,
        label="overlay",
        jobs=choose_jobs(
            options.jobs,
            items=max(1, len(cases) // 8),
            bytes_per_job=(1 << 28) + _BYTES_PER_VOXEL * largest_case(cases),
        ),
        name=lambda case: case.id,
    )
    text = f"{len(cases)} pictures in {options.output}"
    return Outcome(text=text, result=tuple(pictures))


def _predicted(cases: list[Case], folder: Path, description: DatasetDescription) -> list[Case]:
    """Return the cases that are predicted, their predictions in place of their labels."""
    found = {case.id: find_label_map(folder, case.id, description) for case in cases}
    there = [case for case in cases if found[case.id].exists()]
    if not there:
        fix = f"give a folder with CASE{description.label_ending} of training cases"
        raise UserError("no training case is predicted in there", where=folder, fix=fix)
    if left := len(cases) - len(there):
        log.info("%d training cases are not predicted in %s, and not drawn", left, folder)
    return [replace(case, label=found[case.id], mask=None, unannotated=()) for case in there]


def _draw(drawn: Overlays, case: Case) -> Path:
    description = drawn.description
    volume = read_image(case.images, description.reader)
    labels = read_annotation(case, description.labels, description.reader).array
    if labels.shape[1:] != volume.shape:
        what = f"labels have {labels.shape[1:]} voxels, the image {volume.shape} (z, y, x)"
        raise UserError(what, where=case.label, fix="run segkit validate")
    empty = ~nonzero_mask(volume.array)
    labels = np.where(empty & (labels == BACKGROUND), INVALID, labels)
    path = drawn.folder / f"{case.id}.png"
    plane = volume.array[drawn.channel]
    draw_overlay(path, plane, labels, description.labels, volume.geometry.spacing_mm)
    return path
