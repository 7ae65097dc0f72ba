"""From a dataset to scores: the stages in their order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from segkit import options as opt
from segkit.api.calls import AnyPath, options_of, result_of

if TYPE_CHECKING:
    from segkit.dataset.mending.dataset import Mending
    from segkit.dataset.validation import Report
    from segkit.evaluation.summary import Summary
    from segkit.planning.plan import Plan
    from segkit.workflows.crossval import CrossValidation


@overload
def validate(dataset: AnyPath, *, fix: None = None, **options: Any) -> Report: ...


@overload
def validate(dataset: AnyPath, *, fix: AnyPath, **options: Any) -> Mending: ...


def validate(dataset: AnyPath, *, fix: AnyPath | None = None, **options: Any) -> Report | Mending:
    """Check a dataset.

    Args:
        dataset: Its folder, or its name or number under ``$nnUNet_raw`` and ``WORKDIR/raw``.
        fix: Folder for a mended copy.
        **options: Those of ``segkit validate`` (:class:`segkit.options.Validate`).

    Returns:
        Every problem (``.ok``, ``.errors``, ``.warnings``); with ``fix`` also what was mended.

    Raises:
        UserError: no such dataset. Problems inside it are reported, not raised.
    """
    from segkit.workflows.validation import validate as work

    report = work(options_of(opt.Validate, dataset=dataset, fix=fix, **options)).result
    assert report is not None
    return report


def plan(dataset: AnyPath, **options: Any) -> Plan:
    """Plan a dataset; see :class:`segkit.options.Plan` and :func:`validate`.

    Raises:
        UserError: the dataset or an option is at fault.
    """
    from segkit.workflows.prepare import plan as work

    return result_of(work(options_of(opt.Plan, dataset=dataset, **options)))


def preprocess(dataset: AnyPath, **options: Any) -> dict[str, Path]:
    """Preprocess a planned dataset; see :class:`segkit.options.Preprocess`.

    Returns:
        Name of a configuration -> the folder of its arrays.

    Raises:
        UserError: the dataset, its plan or an option is at fault.
    """
    from segkit.workflows.prepare import preprocess as work

    return result_of(work(options_of(opt.Preprocess, dataset=dataset, **options)))


def plan_and_preprocess(dataset: AnyPath, **options: Any) -> Plan:
    """Plan, then preprocess; see :class:`segkit.options.PlanAndPreprocess`.

    Raises:
        UserError: the dataset or an option is at fault.
    """
    from segkit.workflows.prepare import plan_and_preprocess as work

    return result_of(work(options_of(opt.PlanAndPreprocess, dataset=dataset, **options)))


def train(dataset: AnyPath, configuration: str, **options: Any) -> Path:
    """Train a fold, or several with ``folds``; see :class:`segkit.options.Train`.

    Returns:
        Its folder, ``MODEL/fold_N``, with the weights and, below ``validation``, its scores; of
        several folds the folder of the model.

    Raises:
        UserError: the dataset, its plan or an option is at fault.
    """
    from segkit.workflows.training import train as work

    chosen = options_of(opt.Train, dataset=dataset, configuration=configuration, **options)
    return result_of(work(chosen))


def predict(
    inputs: AnyPath | Sequence[AnyPath],
    output: AnyPath,
    models: AnyPath | Sequence[AnyPath] = (),
    **options: Any,
) -> tuple[Path, ...]:
    """Segment image files once; see :class:`segkit.options.Predict`, and ``segkit.Predictor``.

    Args:
        inputs: A folder, a file or several.
        output: Folder for the label maps.
        models: The folder of one, or of several that vote; else ``dataset`` and ``configurations``
            are among the options.
        **options: Those of ``segkit predict``.

    Returns:
        The label files, sorted by case.

    Raises:
        UserError: model, files or an option is at fault; after all other cases are done.
    """
    from segkit.workflows.prediction import predict as work

    chosen = options_of(opt.Predict, inputs=inputs, output=output, models=models, **options)
    return result_of(work(chosen))


def evaluate(
    predictions: AnyPath, references: AnyPath, description: AnyPath, **options: Any
) -> Summary:
    """Compare two folders of label maps; see :class:`segkit.options.Evaluate`.

    Args:
        predictions: Folder; the reports are written there unless ``output`` is given.
        references: Folder.
        description: dataset.json, of the dataset or of a model.
        **options: Those of ``segkit evaluate``.

    Raises:
        UserError: the files or an option is at fault.
    """
    from segkit.workflows.evaluation import evaluate as work

    folders = {"predictions": predictions, "references": references}
    return result_of(work(options_of(opt.Evaluate, **folders, description=description, **options)))


def run(dataset: AnyPath, **options: Any) -> CrossValidation:
    """Validate, plan, preprocess, train all folds and cross-validate: ``segkit run``.

    Returns:
        The folder of the model, and the scores of the cases, each predicted without it. Of several
        configurations, those of the best model or pair.

    Raises:
        UserError: the dataset, with every problem it has, or an option is at fault.
    """
    from segkit.workflows.run import run as work

    return result_of(work(options_of(opt.Run, dataset=dataset, **options)))
