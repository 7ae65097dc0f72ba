"""Image files in, label files out: all cases, with what must not be overwritten left alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segkit.dataset.cases import Case, find_images, image_hash
from segkit.dataset.description import DatasetDescription
from segkit.dataset.image_io import KNOWN_ENDINGS
from segkit.dataset.label_files import LabelLayout, label_path, read_label_map
from segkit.dataset.problems import Problem, raise_errors
from segkit.errors import UsageError, UserError, listing
from segkit.files import check_writable, failures_told
from segkit.inference.case import CasePredictor
from segkit.inference.ensemble import EnsemblePredictor
from segkit.inference.record import RecordKeeper, open_record
from segkit.inference.stages import Stages, overlapped
from segkit.parallel import gather
from segkit.runtime import log

Part = tuple[int, int]
"""(this part, of how many), from 0."""
Targets = Mapping[str, Path]
"""Case -> label file or folder that is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Writing:
    """What is written, and over what."""

    keep_probabilities: bool = False
    dicom_seg: bool = False
    """Also write a DICOM Segmentation object, CASE.dcm, for images that are DICOM series."""
    keep_done: bool = False
    """Leave alone what the same models predicted from the same images before."""
    any_precision: bool = False
    """Even where they did so in another number format or engine."""
    part: Part | None = None
    """Where several runs share the cases: which of them are predicted here."""

    def __post_init__(self) -> None:
        if self.part is not None and not 0 <= self.part[0] < self.part[1]:
            fix = "for example --num-parts 4 and --part-id 0, 1, 2 and 3"
            what = "there is no part {} of {}".format(*self.part)
            raise UsageError(what, where="--part-id", fix=fix)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesGiven:
    """What a user gave to predict."""

    cases: tuple[Case, ...]
    """All of them, sorted by id."""
    faults: dict[str, UserError] = field(default_factory=dict)
    """Case -> why it cannot be predicted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What a prediction of files has done."""

    paths: tuple[Path, ...]
    """Label files, or folders of them, of all cases."""
    kept: int
    """How many of them had been predicted before and were left alone."""


def check_output_folder(output: Path) -> None:
    """Refuse, before any work, an output that is no folder or cannot be written.

    Raises:
        UsageError: it ends as an image file does.
        UserError: nothing can be written there.
    """
    if output.name.lower().endswith(KNOWN_ENDINGS):
        raise UsageError("-o is a folder, not a file", where=output, fix="give a folder")
    check_writable(output)


def look_for_images(
    inputs: Sequence[Path], description: DatasetDescription, *, may_lack_channels: bool = False
) -> ImagesGiven:
    """Find the cases in folders or files; those that lack a file are among them.

    Args:
        inputs: Folders or files.
        description: Of the model's data set.
        may_lack_channels: Cases that lack channels can be predicted too; each is told.

    Raises:
        UserError: nothing there, or something that no case is to blame for; no case can be
            predicted.
    """
    cases, problems = find_images(inputs, description, may_lack_channels=may_lack_channels)
    problems = [_with_way_out(found, may_lack_channels) for found in problems]
    where = ", ".join(map(str, inputs))
    if not cases:
        raise_errors(problems, where=where)
    by_case = [found for found in problems if found.case and found.severity == "error"]
    raise_errors([found for found in problems if found not in by_case], where=where)
    faults: dict[str, UserError] = {}
    for found in by_case:
        error = UserError(f"[{found.code}] {found.message}", where=found.where, fix=found.fix)
        faults.setdefault(str(found.case), error)
    if faults:
        log.warning("%d case(s) cannot be predicted: %s", len(faults), listing(sorted(faults)))
    for case in cases:
        if case.absent:
            names = (f"{description.channel_names[i]} (_{i:04d})" for i in case.absent)
            log.warning("%s has no %s, and is predicted without", case.id, ", ".join(names))
    broken = [Case(id=name, images=(), label=None) for name in faults]
    return ImagesGiven(cases=tuple(sorted([*cases, *broken], key=_case_id)), faults=faults)


def _with_way_out(found: Problem, may_lack_channels: bool) -> Problem:
    """Say what else could be done where a channel is missing."""
    if found.code != "SK-F004":
        return found
    advice = "models trained with augment.p_channel_dropout above 0 predict without it"
    if may_lack_channels:
        advice = "this model predicts without it, if the other files are numbered (CASE_0000)"
    return replace(found, fix=f"{found.fix}; {advice}")


def predict_cases(
    work: CasePredictor | EnsemblePredictor,
    given: ImagesGiven,
    output: Path,
    writing: Writing = Writing(),
) -> Written:
    """Predict every case into ``output``; one that fails is named after the others are done.

    Args:
        work: One model or several.
        given: What to predict.
        output: Folder; ``predicted_by.json`` in it says what was made by which models.
        writing: What is written.

    Raises:
        UserError: cases that failed, or an output that would overwrite an input.
    """
    ending = work.model.description.label_ending
    layout = work.model.settings.label_layout
    part, parts = writing.part or (0, 1)
    cases = given.cases[part::parts]
    paths = tuple(label_path(output, case.id, ending, layout) for case in cases)
    targets = {case.id: path.resolve() for case, path in zip(cases, paths, strict=True)}
    _check_targets(targets.values(), cases, output, layout)
    if writing.dicom_seg:
        _check_series([case for case in cases if case.id not in given.faults])
    with failures_told(output):
        output.mkdir(parents=True, exist_ok=True)
    opened = open_record(output, work.source, writing.part, any_precision=writing.any_precision)
    if writing.keep_done:
        cases = tuple(
            case
            for case in cases
            if case.id not in opened.cases
            or not _is_written(case.id, targets[case.id], writing, work.model.description)
            or opened.cases[case.id] != image_hash(case)
        )
        if kept := len(paths) - len(cases):
            log.info("%d of %d cases are predicted already, and kept", kept, len(paths))
    with opened as record:
        stages = _stages(work, given.faults, targets, record, writing)
        gather(overlapped(cases, stages, _case_id), cases, "predict", _case_id)
    return Written(paths=paths, kept=len(paths) - len(cases))


def _stages(
    work: CasePredictor | EnsemblePredictor,
    faults: Mapping[str, UserError],
    targets: Targets,
    record: RecordKeeper,
    writing: Writing,
) -> Stages:
    def read(case: Case) -> Any:
        if case.id in faults:
            raise faults[case.id]
        return work.read(case)

    def write(case: Case, prediction: Any) -> None:
        images = image_hash(case)
        target = targets[case.id]
        work.write(prediction, target, keep_probabilities=writing.keep_probabilities)
        if writing.dicom_seg:
            _write_dicom_seg(case, target, work.model.description)
        record.add(case.id, images)

    return Stages(read=read, compute=work.predict, write=write, alone=work.needs_all_memory)


def _check_series(cases: Sequence[Case]) -> None:
    """Refuse before any work what cannot become DICOM Segmentations."""
    from segkit.dataset.dicom_seg import check_installed

    check_installed()
    if others := [case for case in cases if not case.images[0].is_dir()]:
        what = f"a DICOM Segmentation needs a DICOM series; {others[0].id} is none"
        raise UserError(what, where=others[0].images[0], fix="leave --dicom-seg out")


def _write_dicom_seg(case: Case, labels: Path, description: DatasetDescription) -> None:
    """Write the label file of a case a second time, for the series it was predicted from."""
    from segkit.dataset.dicom_seg import write_dicom_seg

    indices = read_label_map(labels, description.labels, description.reader).array
    path = labels.with_name(f"{case.id}.dcm")
    if not write_dicom_seg(path, indices, description.labels, case.images[0]):
        log.warning("%s: nothing was found, so there is no %s", case.id, path.name)


def _is_written(case: str, labels: Path, writing: Writing, description: DatasetDescription) -> bool:
    """Whether all files of a prediction are there."""
    if not labels.exists():
        return False
    if writing.keep_probabilities and not labels.with_name(f"{case}.npz").exists():
        return False
    if not writing.dicom_seg or labels.with_name(f"{case}.dcm").exists():
        return True
    return _is_empty(labels, description)


def _is_empty(labels: Path, description: DatasetDescription) -> bool:
    """Whether nothing was found, so that there is no DICOM Segmentation."""
    from segkit.dataset.dicom_seg import has_segments

    try:
        indices = read_label_map(labels, description.labels, description.reader).array
    except UserError:  # damaged since: it is predicted again
        return False
    return not has_segments(indices, description.labels)


def _case_id(case: Case) -> str:
    return case.id


def _check_targets(
    targets: Collection[Path], cases: Sequence[Case], output: Path, layout: LabelLayout
) -> None:
    """Refuse to write over, beside or into a folder of the images that are to be predicted."""
    inputs = {path.resolve() for case in cases for path in case.images}
    taken = inputs | {path.parent for path in inputs}
    if overwritten := sorted(taken & set(targets)):
        where = overwritten[0]
        raise UserError("the output would overwrite an input", where=where, fix="change -o")
    if output.resolve() in taken:
        fix = "choose a folder of its own for the label maps with -o"
        raise UserError("the output folder holds the input images", where=output, fix=fix)
    for there in targets:
        if there.exists() and there.is_dir() != (layout == "folder"):
            kinds = ("folder", "file") if there.is_dir() else ("file", "folder")
            what = "a {} is where a {} is to be written".format(*kinds)
            raise UserError(what, where=there, fix="take it away, or change -o")
