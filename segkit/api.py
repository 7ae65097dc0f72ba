"""The stages as functions: the options of their commands, and results in place of text.

Options are those of the command (the fields of its class in ``segkit.options``), checked and
converted as the command line does. Nothing is printed: messages go to the logger ``segkit``.
Nothing heavy is imported until a function is called.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from segkit import options as opt
from segkit.errors import UserError
from segkit.options.make import OF_TERMINALS

if TYPE_CHECKING:
    from segkit.dataset.mending.dataset import Mending
    from segkit.dataset.validation import Report
    from segkit.evaluation.summary import Summary
    from segkit.planning.plan import Plan
    from segkit.workflows.common import Outcome
    from segkit.workflows.crossval import CrossValidation

AnyPath: TypeAlias = str | PathLike[str]
Options = TypeVar("Options", bound=opt.Common)
R = TypeVar("R")


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

    report = work(_options(opt.Validate, dataset=dataset, fix=fix, **options)).result
    assert report is not None
    return report


def plan(dataset: AnyPath, **options: Any) -> Plan:
    """Plan a dataset; see :class:`segkit.options.Plan` and :func:`validate`.

    Raises:
        UserError: the dataset or an option is at fault.
    """
    from segkit.workflows.prepare import plan as work

    return _result(work(_options(opt.Plan, dataset=dataset, **options)))


def preprocess(dataset: AnyPath, **options: Any) -> dict[str, Path]:
    """Preprocess a planned dataset; see :class:`segkit.options.Preprocess`.

    Returns:
        Name of a configuration -> the folder of its arrays.

    Raises:
        UserError: the dataset, its plan or an option is at fault.
    """
    from segkit.workflows.prepare import preprocess as work

    return _result(work(_options(opt.Preprocess, dataset=dataset, **options)))


def plan_and_preprocess(dataset: AnyPath, **options: Any) -> Plan:
    """Plan, then preprocess; see :class:`segkit.options.PlanAndPreprocess`.

    Raises:
        UserError: the dataset or an option is at fault.
    """
    from segkit.workflows.prepare import plan_and_preprocess as work

    return _result(work(_options(opt.PlanAndPreprocess, dataset=dataset, **options)))


def train(dataset: AnyPath, configuration: str, **options: Any) -> Path:
    """Train a fold, or several with ``folds``; see :class:`segkit.options.Train`.

    Returns:
        Its folder, ``MODEL/fold_N``, with the weights and, below ``validation``, its scores; of
        several folds the folder of the model.

    Raises:
        UserError: the dataset, its plan or an option is at fault.
    """
    from segkit.workflows.training import train as work

    chosen = _options(opt.Train, dataset=dataset, configuration=configuration, **options)
    return _result(work(chosen))


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

    chosen = _options(opt.Predict, inputs=inputs, output=output, models=models, **options)
    return _result(work(chosen))


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
    return _result(work(_options(opt.Evaluate, **folders, description=description, **options)))


def run(dataset: AnyPath, **options: Any) -> CrossValidation:
    """Validate, plan, preprocess, train all folds and cross-validate: ``segkit run``.

    Returns:
        The folder of the model, and the scores of the cases, each predicted without it. Of several
        configurations, those of the best model or pair.

    Raises:
        UserError: the dataset, with every problem it has, or an option is at fault.
    """
    from segkit.workflows.run import run as work

    return _result(work(_options(opt.Run, dataset=dataset, **options)))


def _options(command: type[Options], **given: Any) -> Options:
    for name in OF_TERMINALS:
        if name in given:
            what = f"the option {name!r} is for the command line only"
            fix = "leave it out; logging.basicConfig(level=logging.INFO) shows what is done"
            raise UserError(what, where=f"options of {command.__name__}", fix=fix)
    return opt.make_options(command, given, started=time.monotonic())


def _result(outcome: Outcome[R]) -> R:
    if not outcome.ok:
        raise UserError(outcome.text, fix="mend these problems")
    assert outcome.result is not None
    return outcome.result
