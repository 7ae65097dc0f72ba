"""A trained model of nnU-Net into a model folder of segkit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segkit.checkpoint import save_checkpoint
from segkit.dataset.description import DatasetDescription, describe
from segkit.errors import UserError
from segkit.files import atomic_folder, content_hash, file_hash, read_json, write_artifact
from segkit.inference.model import ModelSettings, save_model
from segkit.interop.nnunet.checkpoint import NnunetCheckpoint, read_checkpoint
from segkit.interop.nnunet.description import model_description
from segkit.interop.nnunet.planning import plan_from_nnunet
from segkit.interop.nnunet.plans import Plans, read_plans
from segkit.interop.nnunet.results import TrainedFolder
from segkit.interop.nnunet.weights import TensorReport, from_nnunet
from segkit.planning.plan import Plan
from segkit.structs import to_mapping

RECORD_VERSION = 1
RECORD = "import.json"
"""In the model folder: what it was made from, and what became of every tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedModel:
    """What was imported."""

    trainer: str
    configuration: str
    source: str
    hashes: dict[str, str]
    """File -> hash of its content."""
    tensors: dict[str, TensorReport]
    """Checkpoint here (``fold_0/final.pt``) -> what became of its tensors."""


def import_trained(
    trained: TrainedFolder, output: Path, named: Path | None = None
) -> ImportedModel:
    """Import every fold of a trained model; a folder that is there already is replaced.

    Args:
        trained: nnU-Net's folder.
        output: The model folder to write; it appears when all of it is there.
        named: What the user calls the source, where that is not the folder: a zip file.

    Raises:
        UserError: anything that cannot be read safely, or that segkit would do otherwise.
    """
    plans = read_plans(trained.path / "plans.json")
    found = trained.checkpoints
    first = read_checkpoint(next(iter(found.values())))
    file = trained.path / "dataset.json"
    content = model_description(read_json(file), plans.image_reader_writer, file)
    description = describe(content, file)
    plan = _plan(plans, description, first)
    with atomic_folder(output) as draft:
        save_model(draft, _settings(plan, first, trained), plan, description)
        tensors = {}
        for name, path in found.items():
            fold, _, kind = name.partition("/")
            checkpoint = first if path == next(iter(found.values())) else read_checkpoint(path)
            _check_same(checkpoint, first, path)
            target = f"fold_{fold}/{kind}.pt"
            tensors[target] = _import_weights(checkpoint, plan, description, path, draft / target)
        record = ImportedModel(
            trainer=first.trainer,
            configuration=first.configuration,
            source=str((named or trained.path).resolve()),
            hashes=hashes_of(trained),
            tensors=tensors,
        )
        _write_record(draft / RECORD, record)
    return record


def hashes_of(trained: TrainedFolder) -> dict[str, str]:
    """Hash every file that an import reads."""
    return {str(f.relative_to(trained.path).as_posix()): file_hash(f) for f in trained.files()}


def _plan(plans: Plans, description: DatasetDescription, checkpoint: NnunetCheckpoint) -> Plan:
    name = checkpoint.configuration
    if plans.configuration(name).previous_stage is not None:
        what = f"{name} is the second stage of a cascade, which cannot be imported yet"
        raise UserError(what, where=plans.source, fix="import the model of a single stage")
    return plan_from_nnunet(plans, description.channel_names, [name])


def _settings(plan: Plan, checkpoint: NnunetCheckpoint, trained: TrainedFolder) -> ModelSettings:
    configuration = plan.configuration(checkpoint.configuration)
    if not set(checkpoint.mirror_axes) <= set(range(configuration.ndim)):
        what = f"the mirror axes {list(checkpoint.mirror_axes)} are not those of a "
        what += f"{configuration.ndim}D network"
        raise UserError(what, where=trained.path, fix="restore the files from their source")
    return ModelSettings(
        configuration=checkpoint.configuration,
        recipe=checkpoint.trainer,
        patch_size=configuration.patch_size,
        mirror_axes=checkpoint.mirror_axes,
    )


def _check_same(checkpoint: NnunetCheckpoint, first: NnunetCheckpoint, path: Path) -> None:
    """Refuse folds that are not of one model."""
    for key in ("trainer", "configuration", "mirror_axes"):
        mine, other = getattr(checkpoint, key), getattr(first, key)
        if mine != other:
            what = f"this fold has the {key.replace('_', ' ')} {mine!r}, the first one {other!r}"
            raise UserError(what, where=path, fix="import a folder whose folds belong together")


def _import_weights(
    checkpoint: NnunetCheckpoint,
    plan: Plan,
    description: DatasetDescription,
    source: Path,
    target: Path,
) -> TensorReport:
    weights, report = from_nnunet(
        checkpoint.weights,
        plan.configuration(checkpoint.configuration).network,
        in_channels=len(plan.channel_names),
        out_channels=description.labels.num_outputs,
        source=source,
    )
    save_checkpoint(target, {"network": weights})
    return report


def _write_record(path: Path, record: ImportedModel) -> None:
    content: Mapping[str, object] = to_mapping(record)
    write_artifact(path, content, version=RECORD_VERSION, made_from=content_hash(record.hashes))
