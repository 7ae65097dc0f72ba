"""What is judged where there is no dataset.json: values of labels, named on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segkit.dataset.checks.content import check_content
from segkit.dataset.description import DatasetDescription, describe
from segkit.dataset.image_io import KNOWN_ENDINGS
from segkit.dataset.problems import raise_errors
from segkit.errors import UserError, listing


def labels_alone(
    labels: Sequence[str], predictions: Path, ignore_label: int | None = None
) -> DatasetDescription:
    """Describe a data set of which only the values of its labels are known.

    Args:
        labels: ``value`` or ``name=value``, without the background, which is 0.
        predictions: Folder whose files tell the ending.
        ignore_label: Value of voxels that nobody annotated; None: every voxel counts.

    Raises:
        UserError: no such values, or names or values twice; no label map in the folder, or several
            kinds.
    """
    content: dict[str, Any] = {
        "channel_names": {"0": "image"},
        "labels": {"background": 0, **_named(labels)},
        "file_ending": _ending(predictions),
    }
    if ignore_label is not None:
        content["ignore_label"] = ignore_label
    file = predictions / "--labels"
    problems = [found for found in check_content(content, file) if found.severity == "error"]
    raise_errors(problems, where="--labels")
    return describe(content, file)


def _named(labels: Sequence[str]) -> dict[str, int]:
    named: dict[str, int] = {}
    for text in labels:
        name, equals, value = text.rpartition("=")
        if not value.isascii() or not value.isdigit() or (equals and not name):
            fix = "give whole numbers above 0, such as 1 2, or liver=1 tumour=2"
            raise UserError(f"{text!r} is no label", where="--labels", fix=fix)
        name = name or f"label_{value}"
        if name in named:
            raise UserError(f"{name!r} is given twice", where="--labels", fix="give it once")
        named[name] = int(value)
    return named


def _ending(folder: Path) -> str:
    """Return the ending of the label maps in a folder."""
    if not folder.is_dir():
        raise UserError("no such folder", where=folder, fix="check the path")
    visible = [path.name for path in folder.iterdir() if path.name[0] != "."]
    kinds = {ending for ending in KNOWN_ENDINGS for name in visible if name.endswith(ending)}
    if len(kinds) != 1:
        found = listing(sorted(kinds)) or "none"
        what = f"the folder should hold label maps of one format; endings found: {found}"
        raise UserError(what, where=folder, fix="take other images out, or give -d DATASET_JSON")
    return kinds.pop()
