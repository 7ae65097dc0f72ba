"""Exchanging models with nnU-Net."""

from __future__ import annotations

from pathlib import Path

from segkit import options as opt
from segkit.errors import UserError
from segkit.interop.nnunet.importing import RECORD, ImportedModel, import_trained
from segkit.interop.nnunet.results import Choice, find_trained
from segkit.workflows.common import Outcome


def import_nnunet(options: opt.ImportNnunet) -> Outcome:
    """Import a trained model; see :class:`segkit.options.ImportNnunet`."""
    _check_output(options.output, overwrite=options.overwrite)
    choice = Choice(
        configuration=options.configuration, trainer=options.trainer, plans=options.plans
    )
    trained = find_trained(options.source, choice)
    return Outcome(text=_describe(import_trained(trained, options.output), options.output))


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse to replace anything but a model folder, and that only when asked to."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / "model.json").is_file():
        what = "the output exists and is no model folder"
        raise UserError(what, where=output, fix="choose another -o")
    if not overwrite:
        fix = "choose another -o, or --overwrite"
        raise UserError("there is a model in the output folder", where=output, fix=fix)


def _describe(record: ImportedModel, folder: Path) -> str:
    lines = [f"imported {record.configuration} of {record.trainer} from {record.source}"]
    lines += [f"  {name}: {report.describe()}" for name, report in record.tensors.items()]
    lines += [
        f"every tensor is listed in {folder / RECORD}",
        f"predict with: segkit predict -m {folder} -i IMAGES -o OUTPUT",
    ]
    return "\n".join(lines)
