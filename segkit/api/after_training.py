"""Judging trained models, and making more of what they predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from segkit import options as opt
from segkit.api.calls import AnyPath, options_of, result_of

if TYPE_CHECKING:
    from segkit.evaluation.postprocessing import Postprocessing
    from segkit.evaluation.summary import Summary
    from segkit.workflows.crossval import CrossValidation


def crossval(dataset: AnyPath, configuration: str, **options: Any) -> Summary:
    """Predict and score what trained folds have not seen; see :class:`segkit.options.Crossval`.

    Returns:
        The scores of all folds together, as in ``MODEL/crossval``.

    Raises:
        UserError: no fold is trained, or the dataset or an option is at fault.
    """
    from segkit.workflows.crossval import crossval as work

    chosen = options_of(opt.Crossval, dataset=dataset, configuration=configuration, **options)
    return result_of(work(chosen))


def find_best(dataset: AnyPath, **options: Any) -> CrossValidation:
    """Compare all trained models and pairs of them; see :class:`segkit.options.FindBest`.

    Returns:
        The folder of the best, which predicts as a model does, and its cross-validation.

    Raises:
        UserError: no model has all folds trained, or the dataset or an option is at fault.
    """
    from segkit.workflows.selection import find_best as work

    return result_of(work(options_of(opt.FindBest, dataset=dataset, **options)))


def ensemble(inputs: Sequence[AnyPath], output: AnyPath, **options: Any) -> tuple[Path, ...]:
    """Average predictions of several models; see :class:`segkit.options.Ensemble`.

    Args:
        inputs: Folders that ``predict`` wrote with ``save_probabilities``.
        output: Folder for the label maps.
        **options: Those of ``segkit ensemble``.

    Returns:
        The label files, sorted by case.

    Raises:
        UserError: the folders do not hold the same, or an option is at fault.
    """
    from segkit.workflows.ensemble import ensemble as work

    return result_of(work(options_of(opt.Ensemble, inputs=inputs, output=output, **options)))


@overload
def postprocess(
    *, output: AnyPath, fit: Literal[False] = False, **options: Any
) -> tuple[Path, ...]: ...


@overload
def postprocess(*, output: AnyPath, fit: Literal[True], **options: Any) -> Postprocessing: ...


def postprocess(
    *, output: AnyPath, fit: bool = False, **options: Any
) -> tuple[Path, ...] | Postprocessing:
    """Apply rules to predictions, or find rules; see :class:`segkit.options.Postprocess`.

    Args:
        output: Folder for what comes out of ``input`` under the ``rules``; with ``fit`` the JSON
            file of the rules.
        fit: Find rules on ``predictions``, ``references`` and ``description``.
        **options: Those of ``segkit postprocess``.

    Returns:
        The label files, sorted by case; with ``fit`` the rules, and what was tried.

    Raises:
        UserError: the files or an option is at fault.
    """
    from segkit.workflows.postprocess import postprocess as work

    return result_of(work(options_of(opt.Postprocess, output=output, fit=fit, **options)))


def quantize(
    models: AnyPath | Sequence[AnyPath], inputs: AnyPath | Sequence[AnyPath], **options: Any
) -> tuple[Path, ...]:
    """Calibrate models for the engine ``openvino-int8``; see :class:`segkit.options.Quantize`.

    Args:
        models: A model folder, or several.
        inputs: Images like those that are to be predicted: a folder, a file or several.
        **options: Those of ``segkit quantize``.

    Returns:
        The files that were written into the folders of the folds.

    Raises:
        UserError: OpenVINO is not installed, the processor or the network is not made for it, or
            an option is at fault.
    """
    from segkit.workflows.quantization import quantize as work

    return result_of(work(options_of(opt.Quantize, models=models, inputs=inputs, **options)))
