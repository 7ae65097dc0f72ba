"""Image files in, label files out: all cases, with what must not be overwritten left alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from segkit.dataset.cases import Case
from segkit.dataset.image_io import KNOWN_ENDINGS
from segkit.dataset.label_files import LabelLayout, label_path
from segkit.errors import UsageError, UserError
from segkit.inference.case import CasePredictor, Prediction
from segkit.inference.stages import Stages, overlapped
from segkit.parallel import gather


def check_output_folder(output: Path) -> None:
    """Refuse the name of a file where a folder is wanted.

    Raises:
        UsageError: it ends as an image file does.
    """
    if output.name.lower().endswith(KNOWN_ENDINGS):
        raise UsageError("-o is a folder, not a file", where=output, fix="give a folder")


def predict_cases(
    work: CasePredictor,
    cases: Sequence[Case],
    output: Path,
    *,
    keep_probabilities: bool = False,
) -> tuple[Path, ...]:
    """Predict every case into ``output``; one that fails is named after the others are done.

    Returns:
        What is written of every case: a label file, or a folder of them.

    Raises:
        UserError: cases that failed, or an output that would overwrite an input.
    """
    ending = work.model.description.label_ending
    layout = work.model.settings.label_layout
    paths = tuple(label_path(output, case.id, ending, layout) for case in cases)
    targets = {case.id: path.resolve() for case, path in zip(cases, paths, strict=True)}
    _check_targets(targets.values(), cases, output, layout)
    output.mkdir(parents=True, exist_ok=True)

    def write(case: Case, prediction: Prediction) -> None:
        work.write(prediction, targets[case.id], keep_probabilities=keep_probabilities)

    stages = Stages(
        read=work.read,
        compute=work.predict,
        write=write,
        alone=work.needs_all_memory,
    )
    gather(overlapped(cases, stages, _case_id), cases, "predict", _case_id)
    return paths


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
