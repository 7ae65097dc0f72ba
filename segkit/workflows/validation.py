"""Checking a data set, and mending a copy of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segkit import options as opt
from segkit.dataset.validation import Report, validate_dataset
from segkit.workflows.common import Outcome, as_json
from segkit.workspace import find_dataset

if TYPE_CHECKING:
    from segkit.dataset.mending.dataset import Mending


def validate(options: opt.Validate) -> Outcome[Report | Mending]:
    """Check a dataset; see :class:`segkit.options.Validate`."""
    folder = find_dataset(options.dataset, options.raw_folders)
    if options.fix is None:
        return _outcome(validate_dataset(folder, jobs=options.jobs), options)
    from segkit.dataset.mending.dataset import mend_dataset

    return _outcome(mend_dataset(folder, options.fix, jobs=options.jobs), options)


def _outcome(report: Report | Mending, options: opt.Validate) -> Outcome[Report | Mending]:
    text = as_json(report.to_json()) if options.json else str(report)
    return Outcome(text=text, ok=report.ok, result=report)
