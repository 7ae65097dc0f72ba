"""Averaging predictions that lie in folders, from the probabilities saved with them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from segkit import options as opt
from segkit.dataset.description import DatasetDescription, describe_predicted
from segkit.dataset.image_io import Header, read_header
from segkit.dataset.label_files import LabelLayout, label_layout, label_path, write_label_map
from segkit.errors import UsageError, UserError, listing
from segkit.evaluation.case import geometry_warnings
from segkit.evaluation.pairs import grid_file
from segkit.inference.export import (
    load_probabilities,
    save_probabilities,
    shares_to_segmentation,
)
from segkit.inference.files import check_output_folder
from segkit.inference.partners import check_shares, check_traits, label_meanings
from segkit.inference.record import (
    PredictionRecord,
    PredictionSource,
    find_records,
    open_record,
    read_record,
)
from segkit.parallel import choose_jobs, map_cases, threads
from segkit.types import Volume
from segkit.workflows.common import Outcome, read_description


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A folder of predictions with their probabilities."""

    folder: Path
    description: DatasetDescription
    layout: LabelLayout
    record: PredictionRecord | None
    """Who predicted them; None where nobody says."""
    files: Mapping[str, Path]
    """Case -> CASE.npz."""


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """What every case is averaged from, and where it goes."""

    members: Sequence[Saved]
    shares: Sequence[float]
    output: Path
    keep_probabilities: bool


def ensemble(options: opt.Ensemble) -> Outcome[tuple[Path, ...]]:
    """Average predictions; see :class:`segkit.options.Ensemble`."""
    if len(options.inputs) < 2:
        fix = "give two folders or more after -i, each written with --save-probabilities"
        raise UsageError("an ensemble has several members", where="-i", fix=fix)
    if options.output.resolve() in [folder.resolve() for folder in options.inputs]:
        fix = "choose a folder of its own with -o"
        raise UserError("the output would overwrite an input", where=options.output, fix=fix)
    check_output_folder(options.output)
    work = Averaging(
        shares=check_shares(options.weights, len(options.inputs)),
        members=[_open(folder, options.description) for folder in options.inputs],
        output=options.output,
        keep_probabilities=options.save_probabilities,
    )
    _check_alike(work.members)
    cases = sorted(work.members[0].files)
    largest = max(map(_unpacked_bytes, work.members[0].files.values()))
    jobs = choose_jobs(options.jobs, items=len(cases), bytes_per_job=3 * largest)
    with threads(jobs) as executor:
        average = partial(_average, work=work)
        written = map_cases(average, cases, label="ensemble", jobs=jobs, executor=executor)
    if (source := _combined_source(work)) is not None:
        with open_record(work.output, source) as record:
            record.cases = {case: "" for case in cases}
    text = f"averaged {len(work.members)} predictions of {len(cases)} case(s), in {work.output}"
    return Outcome(text=text, result=tuple(written))


def _open(folder: Path, description: Path | None) -> Saved:
    """Read what a folder of predictions holds.

    Raises:
        UserError: no such folder, no probabilities in it, or nothing that says what they mean.
    """
    if not folder.is_dir():
        raise UserError("no such folder", where=folder, fix="check the path")
    files = {path.stem: path for path in folder.glob("*.npz") if not path.name.startswith(".")}
    if not files:
        fix = "predict again with --save-probabilities"
        raise UserError("no probabilities (CASE.npz) lie there", where=folder, fix=fix)
    record = next((read_record(path) for path in find_records(folder)), None)
    if description is not None or (folder / "dataset.json").is_file():
        meant = read_description(description or folder)
    elif record is not None:
        source = record.source
        meant = describe_predicted(source.dataset, source.left_out, folder)
    else:
        fix = "give the dataset.json (or the model folder) with -d"
        raise UserError("nothing says what the probabilities mean", where=folder, fix=fix)
    layout = _layout(folder, next(iter(files)), meant)
    return Saved(folder=folder, description=meant, layout=layout, record=record, files=files)


def _layout(folder: Path, case: str, description: DatasetDescription) -> LabelLayout:
    found = grid_file(folder, case, description)
    label = found.parent if found.parent != folder else found
    return label_layout(label, description.labels, description.reader)


def _check_alike(members: Sequence[Saved]) -> None:
    """Refuse folders of other labels or other cases.

    Raises:
        UserError: naming what differs, and every case that is missing somewhere.
    """
    traits = [
        {
            "labels": label_meanings(each.description.labels),
            "file endings": (each.description.label_ending,),
        }
        for each in members
    ]
    for each, found in zip(members[1:], traits[1:], strict=True):
        check_traits(traits[0], found, where=f"{members[0].folder} and {each.folder}")
    every = set().union(*(each.files for each in members))
    lacking = {each.folder: sorted(every - each.files.keys()) for each in members}
    if any(lacking.values()):
        lines = [f"{folder}: {listing(names, 20)}" for folder, names in lacking.items() if names]
        what = "the folders do not hold the same cases; missing are\n  " + "\n  ".join(lines)
        fix = "predict these too, with --save-probabilities, or take them away everywhere"
        raise UserError(what, fix=fix)


def _average(case: str, *, work: Averaging) -> Path:
    """Average the probabilities of a case, decide and write; returns the label file.

    Raises:
        UserError: a damaged file, or grids that differ.
    """
    first = work.members[0]
    labels, reader = first.description.labels, first.description.reader
    grid = read_header(grid_file(first.folder, case, first.description), reader)
    mean = np.zeros((labels.num_outputs, *grid.shape), dtype=np.float32)
    for each, share in zip(work.members, work.shares, strict=True):
        _check_grid(case, grid, each, first)
        part = load_probabilities(each.files[case], mean.shape)
        mean += part if share == 1 else np.float32(share) * part
        del part
    mean /= np.float32(sum(work.shares))
    output = label_path(work.output, case, first.description.label_ending, first.layout)
    if work.keep_probabilities:
        save_probabilities(work.output / f"{case}.npz", mean)
    indices = shares_to_segmentation(mean, labels)
    volume = Volume(array=indices, geometry=grid.geometry)
    write_label_map(output, volume, labels, first.layout, first.description.label_ending)
    return output


def _check_grid(case: str, grid: Header, other: Saved, first: Saved) -> None:
    path = grid_file(other.folder, case, other.description)
    found = read_header(path, other.description.reader)
    differ = [f"shape {grid.shape} and {found.shape} (z, y, x)"] * (grid.shape != found.shape)
    differ += geometry_warnings(case, grid.geometry, found.geometry)
    if differ:
        what = f"{case} lies on different grids: {'; '.join(differ)}"
        fix = "predict both from the very same images"
        raise UserError(what, where=f"{first.folder} and {other.folder}", fix=fix)


def _combined_source(work: Averaging) -> PredictionSource | None:
    """Say who predicted together; None where a folder does not tell."""
    members = []
    for each, share in zip(work.members, work.shares, strict=True):
        if each.record is None:
            return None
        parts = each.record.source.members
        total = sum(part.share for part in parts)
        members += [replace(part, share=share * part.share / total) for part in parts]
    first = work.members[0].record
    assert first is not None
    # Rules a member has do not reach its probabilities, so none was applied to their mean.
    return replace(first.source, members=tuple(members), postprocessing=None)


def _unpacked_bytes(path: Path) -> int:
    """Size of an archive's arrays; whoever reads them tells what is wrong with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError):
        return path.stat().st_size
