"""Finding and reading the model a training begins with."""

from __future__ import annotations

from pathlib import Path

from segkit.checkpoint import load_checkpoint
from segkit.errors import UserError
from segkit.files import file_hash
from segkit.inference.model import load_model, trained_folds
from segkit.networks.inputs import given_classes
from segkit.runtime import log
from segkit.training.pretrained import Origin, Pretrained
from segkit.training.record import read_record


def read_pretrained(path: Path, fold: str, dataset: str) -> Pretrained:
    """Read the weights of a model and what they mean.

    Args:
        path: A model folder, one of its fold folders, or a checkpoint in one of them.
        fold: The one to be trained; of a model folder the same is taken, else its first.
        dataset: Name of the data set to be trained on. A model of another fold of it has seen
            what the new one validates on, which is warned about.

    Raises:
        UserError: no such model or checkpoint.
    """
    file = _checkpoint(path.resolve(), fold)
    model = load_model(file.parent.parent)
    content = load_checkpoint(file)
    if "network" not in content:
        raise UserError("the checkpoint has no network", where=file, fix="give one of segkit")
    if model.plan.dataset == dataset and file.parent.name != f"fold_{fold}":
        what = f"{file.parent.name} of the same data set has seen cases that fold {fold} validates"
        log.warning("the pretrained %s on: validation will look too good", what)
    recorded = (file.parent / "recipe.json").is_file()
    return Pretrained(
        origin=Origin(path=str(file), content_hash=file_hash(file)),
        weights=content["network"],
        schema=model.description.labels,
        configuration=model.settings.configuration,
        channel_names=model.plan.channel_names,
        given_classes=given_classes(
            model.plan, model.settings.configuration, model.description.labels
        ),
        network=model.network,
        invalid_voxels=read_record(file.parent).resolved.loss.invalid_voxels if recorded else None,
    )


def _checkpoint(path: Path, fold: str) -> Path:
    if path.name.startswith("fold_"):
        file = path / "final.pt"
    elif path.suffix == ".pt":
        file = path
    else:
        folds = trained_folds(path)
        same = (path / f"fold_{fold}" / "final.pt").is_file()
        if not folds:
            fix = "give a model folder of segkit, a fold folder, or a checkpoint such as best.pt"
            raise UserError("no fold of a model is trained in there", where=path, fix=fix)
        file = path / f"fold_{fold if same else folds[0]}" / "final.pt"
    if not file.is_file():
        present = ", ".join(sorted(p.name for p in file.parent.glob("*.pt"))) or "none"
        fix = f"checkpoints there: {present}"
        raise UserError("no such checkpoint", where=file, fix=fix)
    if not (file.parent.parent / "model.json").is_file():
        fix = "keep it in its model folder: MODEL/model.json, plan.json, dataset.json and fold_N"
        raise UserError("a checkpoint alone does not say what it predicts", where=file, fix=fix)
    return file
