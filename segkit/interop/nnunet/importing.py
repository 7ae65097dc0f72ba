"""A trained model of nnU-Net into a model folder of segkit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit.checkpoint import checkpoint_hash, save_checkpoint
from segkit.dataset.description import describe
from segkit.errors import UserError
from segkit.evaluation.postprocessing import (
    RULES_FILE,
    Postprocessing,
    Rule,
    save_postprocessing,
)
from segkit.files import atomic_folder, content_hash, file_hash, read_json, write_artifact
from segkit.inference.model import PREVIOUS_STAGE, Model, ModelSettings, load_model, save_model
from segkit.inference.previous import load_previous
from segkit.interop.nnunet.checkpoint import NnunetCheckpoint, read_checkpoint
from segkit.interop.nnunet.description import model_description
from segkit.interop.nnunet.order import classes_in_order
from segkit.interop.nnunet.planning import plan_from_nnunet
from segkit.interop.nnunet.plans import read_plans
from segkit.interop.nnunet.postprocessing import find_postprocessing, read_rules
from segkit.interop.nnunet.results import TrainedFolder
from segkit.interop.nnunet.weights import TensorReport, from_nnunet, trained_network
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
    previous_stage: str | None = None
    """Configuration that predicts first, in a cascade."""
    has_previous_stage: bool = False
    """Whether it was found, and imported too."""
    postprocessing: tuple[str, ...] = ()
    """What the model does to its label maps, in words."""
    not_postprocessed: tuple[str, ...] = ()
    """Rules of nnU-Net that are left out, with the reason."""
    tensors: dict[str, TensorReport]
    """Checkpoint here (``fold_0/final.pt``) -> what became of its tensors."""


def import_trained(
    trained: TrainedFolder, output: Path, named: Path | None = None
) -> ImportedModel:
    """Import every fold of a trained model; a folder that is there already is replaced.

    The first stage of a cascade is imported with it, where nnU-Net has it beside: it lies in the
    model folder then, and predicts first.

    Args:
        trained: nnU-Net's folder.
        output: The model folder to write; it appears when all of it is there.
        named: What the user calls the source, where that is not the folder: a zip file.

    Raises:
        UserError: anything that cannot be read safely, or that segkit would do otherwise.
    """
    stages, source = stages_of(trained), str((named or trained.path).resolve())
    with atomic_folder(output) as draft:
        record = _import_stage(stages, draft, source)
        if before := stages[1:]:
            _import_stage(before, draft / PREVIOUS_STAGE, source)
            load_previous(load_model(draft))
    return record


def stages_of(trained: TrainedFolder) -> tuple[TrainedFolder, ...]:
    """Return a model and, where it refines another one's predictions that is beside it, that one.

    What comes before is what the plans say of the configuration in the folder's name.
    """
    plans, name = read_plans(trained.path / "plans.json"), trained.name.rpartition("__")[2]
    known = name in plans.configurations
    stage = plans.configuration(name).previous_stage if known else None
    before = None if stage is None else trained.sibling(stage)
    return (trained,) if before is None else (trained, before)


def source_hashes(stages: Sequence[TrainedFolder]) -> dict[str, str]:
    """Hash every file that an import reads; of weights without reading their tensors."""
    files = [file for stage in stages for file in stage.files()]
    place = stages[0].path.parent
    return {file.relative_to(place).as_posix(): _hash(file) for file in files}


def _hash(file: Path) -> str:
    return checkpoint_hash(file) if file.suffix == ".pth" else file_hash(file)


def _import_stage(stages: Sequence[TrainedFolder], folder: Path, source: str) -> ImportedModel:
    """Write a model folder of the first of these stages; the other predicts before it."""
    trained = stages[0]
    plans = read_plans(trained.path / "plans.json")
    file = trained.path / "dataset.json"
    content = model_description(read_json(file), plans.image_reader_writer, file)
    description = describe(content, file)
    checkpoints = trained.checkpoints
    first = read_checkpoint(next(iter(checkpoints.values())))
    plan = plan_from_nnunet(plans, description.channel_names, [first.configuration])
    save_model(folder, _settings(plan, first, trained), plan, description)
    model = load_model(folder)
    tensors: dict[str, TensorReport] = {}
    for name, path in checkpoints.items():
        checkpoint = read_checkpoint(path) if tensors else first
        _check_same(checkpoint, first, path)
        target = "fold_{}/{}.pt".format(*name.split("/"))
        tensors[target] = _import_weights(checkpoint, model, path, folder / target)
    rules, left_out = _import_rules(trained, model)
    record = ImportedModel(
        trainer=first.trainer,
        configuration=first.configuration,
        source=source,
        hashes=source_hashes(stages),
        previous_stage=plan.previous_stage(first.configuration),
        has_previous_stage=len(stages) > 1,
        postprocessing=tuple(map(str, rules)),
        not_postprocessed=left_out,
        tensors=tensors,
    )
    made_from = content_hash(record.hashes)
    written = to_mapping(record)
    write_artifact(folder / RECORD, written, version=RECORD_VERSION, made_from=made_from)
    return record


def _import_rules(trained: TrainedFolder, model: Model) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """Write nnU-Net's post-processing into the model folder; see :func:`read_rules`."""
    file = find_postprocessing(trained.path)
    if file is None:
        return (), ()
    rules, left_out = read_rules(file, model.description.labels)
    if rules:
        content = Postprocessing(rules=rules, dataset=model.description.content)
        save_postprocessing(model.folder / RULES_FILE, content, made_from=file_hash(file))
    return rules, left_out


def _settings(plan: Plan, checkpoint: NnunetCheckpoint, trained: TrainedFolder) -> ModelSettings:
    configuration = plan.configuration(checkpoint.configuration)
    if not set(checkpoint.mirror_axes) <= set(range(configuration.ndim)):
        what = f"the mirror axes {list(checkpoint.mirror_axes)} are not those of a "
        what += f"{configuration.ndim}D network"
        raise UserError(what, where=trained.path, fix="restore the files from their source")
    network = trained_network(checkpoint.weights, configuration.network)
    return ModelSettings(
        configuration=checkpoint.configuration,
        recipe=checkpoint.trainer,
        patch_size=configuration.patch_size,
        mirror_axes=checkpoint.mirror_axes,
        network=None if network == configuration.network else network,
    )


def _check_same(checkpoint: NnunetCheckpoint, first: NnunetCheckpoint, path: Path) -> None:
    """Refuse folds that are not of one model."""
    for key in ("trainer", "configuration", "mirror_axes"):
        mine, other = getattr(checkpoint, key), getattr(first, key)
        if mine != other:
            what = f"this fold has the {key.replace('_', ' ')} {mine!r}, the first one {other!r}"
            raise UserError(what, where=path, fix="import a folder whose folds belong together")


def _import_weights(
    checkpoint: NnunetCheckpoint, model: Model, source: Path, target: Path
) -> TensorReport:
    weights, report = from_nnunet(
        checkpoint.weights,
        model.network,
        in_channels=model.input_channels,
        out_channels=model.description.labels.num_outputs,
        source=source,
    )
    save_checkpoint(target, {"network": classes_in_order(weights, model)})
    return report
