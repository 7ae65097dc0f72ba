"""Models of nnU-Net v2, to and fro."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segkit import options as opt
from segkit.api.calls import AnyPath, options_of, result_of


def import_nnunet(source: AnyPath, output: AnyPath, **options: Any) -> Path:
    """Make a model folder of nnU-Net's results; see :class:`segkit.options.ImportNnunet`.

    Args:
        source: Results folder, of a trainer or of a data set, or a zip of one.
        output: The model folder to write.
        **options: Those of ``segkit import_nnunet``.

    Returns:
        The model folder.

    Raises:
        UserError: what cannot be read safely, or segkit would do otherwise; or an option.
    """
    from segkit.workflows.interop import import_nnunet as work

    return result_of(work(options_of(opt.ImportNnunet, source=source, output=output, **options)))


def export_nnunet(model: AnyPath, output: AnyPath, **options: Any) -> Path:
    """Make a folder that nnU-Net predicts with; see :class:`segkit.options.ExportNnunet`.

    Args:
        model: A model folder.
        output: The folder to write, for ``nnUNetv2_predict_from_modelfolder -m``.
        **options: Those of ``segkit export_nnunet``.

    Returns:
        The folder.

    Raises:
        UserError: the model has what nnU-Net lacks, or an option is at fault.
    """
    from segkit.workflows.interop import export_nnunet as work

    return result_of(work(options_of(opt.ExportNnunet, model=model, output=output, **options)))
