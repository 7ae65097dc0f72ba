"""Making a dataset of what there is, and pictures of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segkit import options as opt
from segkit.api.calls import AnyPath, options_of, result_of


def convert(source: AnyPath, output: AnyPath, **options: Any) -> Path:
    """Make a dataset folder; see :class:`segkit.options.Convert`.

    Args:
        source: Decathlon task, nnU-Net v1 dataset, images and masks, COCO, a list of files, DICOM.
        output: The new folder.
        **options: Those of ``segkit convert``.

    Returns:
        The new folder.

    Raises:
        UserError: the source or an option is at fault.
    """
    from segkit.workflows.conversion import convert as work

    return result_of(work(options_of(opt.Convert, source=source, output=output, **options)))


def overlay(dataset: AnyPath, output: AnyPath, **options: Any) -> tuple[Path, ...]:
    """Draw cases under their labels or predictions; see :class:`segkit.options.Overlay`.

    Returns:
        The pictures, sorted by case.

    Raises:
        UserError: the dataset or an option is at fault.
    """
    from segkit.workflows.overlay import overlay as work

    return result_of(work(options_of(opt.Overlay, dataset=dataset, output=output, **options)))


def preview(dataset: AnyPath, configuration: str, **options: Any) -> Path:
    """Draw the patches that training begins with; see :class:`segkit.options.Preview`.

    Returns:
        The picture.

    Raises:
        UserError: the dataset, its plan or an option is at fault.
    """
    from segkit.workflows.preview import preview as work

    chosen = options_of(opt.Preview, dataset=dataset, configuration=configuration, **options)
    return result_of(work(chosen))
