"""Exchanging models with nnU-Net."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from segkit import __version__
from segkit import options as opt
from segkit.errors import UserError
from segkit.files import content_hash, file_hash
from segkit.inference.model import MODEL_VERSION, Model, load_model
from segkit.interop.archive import unpack
from segkit.interop.nnunet.exporting import export_trained
from segkit.interop.nnunet.importing import (
    RECORD,
    RECORD_VERSION,
    ImportedModel,
    import_trained,
    source_hashes,
    stages_of,
)
from segkit.interop.nnunet.results import Choice, find_trained, is_needed, is_results
from segkit.planning.fingerprint import Fingerprint, load_fingerprint
from segkit.runtime import log
from segkit.workflows.common import Outcome, check_replaceable
from segkit.workspace import Workspace

CACHE = "imported"
"""Folder in the work folder for models that were imported on the way to a prediction."""


def import_nnunet(options: opt.ImportNnunet) -> Outcome[Path]:
    """Import a trained model; see :class:`segkit.options.ImportNnunet`."""
    check_replaceable(options.output, "model.json", overwrite=options.overwrite)
    choice = Choice(
        configuration=options.configuration, trainer=options.trainer, plans=options.plans
    )
    with _as_folder(options.source, options.output.parent) as folder:
        trained = find_trained(folder, choice, options.source)
        record = import_trained(trained, options.output, options.source)
    return Outcome(text=_describe(record, options.output), result=options.output)


def export_nnunet(options: opt.ExportNnunet) -> Outcome[Path]:
    """Export a trained model; see :class:`segkit.options.ExportNnunet`."""
    check_replaceable(options.output, "plans.json", overwrite=options.overwrite)
    model = load_model(options.model)
    exported = export_trained(model, options.output, _fingerprint(model))
    lines = [
        f"exported {', '.join(exported.checkpoints)}",
        *(f"note: {note}" for note in exported.notes),
        f"predict with: nnUNetv2_predict_from_modelfolder -m {options.output} -i IMAGES -o OUTPUT",
    ]
    return Outcome(text="\n".join(lines), result=options.output)


def _fingerprint(model: Model) -> Fingerprint | None:
    """Read what was measured of the data set, where the model lies in the work folder of it."""
    workspace = Workspace(folder=model.folder.resolve().parent.parent)
    if workspace.folder.name != model.plan.dataset or not workspace.fingerprint.is_file():
        return None
    return load_fingerprint(workspace.fingerprint)


def with_imported(
    models: Sequence[Path], configurations: Sequence[str], workdir: Path
) -> tuple[Path, ...]:
    """Replace nnU-Net's results, folders or zip files, by model folders made of them.

    What was imported before is taken from the work folder while it is the same.

    Args:
        models: As the user names them.
        configurations: Which ones to take of results that hold several; empty for the only one.
        workdir: Where imported models are kept.

    Raises:
        UserError: results that cannot be imported, or several where one is meant.
    """
    folders: list[Path] = []
    for model in models:
        if (model / "model.json").is_file() or not _is_nnunet(model):
            folders.append(model)
            continue
        for configuration in configurations or (None,):
            choice = Choice(configuration=configuration)
            folders.append(_imported(model, choice, workdir / CACHE))
    return tuple(folders)


def _is_nnunet(path: Path) -> bool:
    return is_results(path) or (path.is_file() and path.suffix.lower() == ".zip")


def _imported(source: Path, choice: Choice, cache: Path) -> Path:
    if source.is_file():
        content: object = [file_hash(source), choice.configuration]
    else:
        content = source_hashes(stages_of(find_trained(source, choice)))
    made_with = [__version__, MODEL_VERSION, RECORD_VERSION]
    folder = cache / content_hash([content, made_with])
    if not (folder / RECORD).is_file():
        with _as_folder(source, cache) as unpacked:
            import_trained(find_trained(unpacked, choice, source), folder, source)
    log.info("model of nnU-Net %s, imported into %s", source, folder)
    return folder


@contextlib.contextmanager
def _as_folder(source: Path, near: Path) -> Iterator[Path]:
    """Give the results themselves, or what is needed of a zip, unpacked for the time being."""
    if not source.is_file():
        yield source
        return
    if source.suffix == ".pth":
        fix = "give its folder TRAINER__PLANS__CONFIGURATION, which says what it predicts"
        raise UserError("a checkpoint alone is no model", where=source, fix=fix)
    near.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=near, prefix=".unpacked.") as scratch:
        unpack(source, Path(scratch) / source.stem, is_needed)
        yield Path(scratch) / source.stem


def _describe(record: ImportedModel, folder: Path) -> str:
    lines = [f"imported {record.configuration} of {record.trainer} from {record.source}"]
    lines += [f"  {name}: {report.describe()}" for name, report in record.tensors.items()]
    if record.previous_stage is not None:
        here = "imported with it" if record.has_previous_stage else "not found beside it: hand in "
        here += "" if record.has_previous_stage else "its segmentations with --previous-stage DIR"
        lines.append(f"  previous stage {record.previous_stage}: {here}")
    if record.postprocessing:
        done = "; ".join(record.postprocessing)
        lines.append(f"  post-processing: {done} (predict --no-postprocessing leaves it out)")
    lines += [f"  left out: {reason}" for reason in record.not_postprocessed]
    lines += [
        f"every tensor is listed in {folder / RECORD}",
        f"predict with: segkit predict -m {folder} -i IMAGES -o OUTPUT",
    ]
    return "\n".join(lines)
