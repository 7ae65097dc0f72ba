"""The model folder: portable, self-contained, loaded without running any code of its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segkit.checkpoint import load_checkpoint
from segkit.dataset.description import DatasetDescription, load_description
from segkit.dataset.label_files import LabelLayout
from segkit.dataset.sides import class_swap, output_swap
from segkit.errors import UserError, listing
from segkit.files import content_hash, read_artifact, write_artifact, write_json
from segkit.inference.flips import SideSwap
from segkit.networks.build import build_network
from segkit.networks.inputs import input_channels
from segkit.networks.own import check_allowed
from segkit.planning.plan import (
    ConfigurationPlan,
    NetworkPlan,
    Plan,
    PlanRequest,
    load_plan,
    planned_description,
    save_plan,
)
from segkit.structs import read_struct, to_mapping

PREVIOUS_STAGE = "previous_stage"
"""Folder inside that of a cascade: the model folder of the stage that predicts first."""
MODEL_VERSION = 6
"""Raise it when plan.json or dataset.json are hashed otherwise: older models are then refused."""
_OLD_MODEL = (
    "train it again with this version of segkit (delete the folder, or give the recipe another "
    "name), or go on with the version it was made with"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """What prediction needs to know beyond the plan; equal for all folds of a model."""

    configuration: str
    recipe: str
    patch_size: tuple[int, ...]
    mirror_axes: tuple[int, ...]
    """Spatial axes of the patch that training mirrored, so that prediction may."""
    swap_axis: int | None = None
    """The one of them that runs between left and right: there labels changed places."""
    may_lack_channels: bool = False
    """Whether training dropped channels, so that cases may come without some."""
    label_layout: LabelLayout = "integers"
    """How the labels trained on lie on disk; predictions are written alike."""
    network: NetworkPlan | None = None
    """What was trained; None: the plan's network as it is."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model folder, read and checked; the weights are still on disk."""

    folder: Path
    settings: ModelSettings
    plan: Plan
    description: DatasetDescription
    """Of what is predicted: without the structures that the plan leaves out."""
    made_from: str = ""
    """Hash of plan and dataset.json."""

    @property
    def configuration(self) -> ConfigurationPlan:
        """The planned configuration this model was trained with."""
        return self.plan.configuration(self.settings.configuration)

    @property
    def is_cascade(self) -> bool:
        """Whether another model predicts first."""
        return self.plan.previous_stage(self.settings.configuration) is not None

    @property
    def input_channels(self) -> int:
        """Channels its network takes."""
        return input_channels(self.plan, self.settings.configuration, self.description.labels)

    @property
    def side_swap(self) -> SideSwap | None:
        """What changes places between left and right; None where nothing does."""
        axis, sides = self.settings.swap_axis, self.description.sides
        if axis is None or sides is None:
            return None
        image, labels = len(self.plan.channel_names), self.description.labels
        classes = class_swap(labels, sides.pairs)[: self.input_channels - image]
        return SideSwap(
            axis=axis,
            inputs=(*range(image), *(image + number for number in classes)),
            outputs=output_swap(labels, sides.pairs),
        )

    @property
    def network(self) -> NetworkPlan:
        """The network that was trained."""
        return self.settings.network or self.configuration.network


def save_model(
    folder: Path,
    settings: ModelSettings,
    plan: Plan,
    description: DatasetDescription,
    *,
    replaced: Collection[str] = (),
    only_check: bool = False,
) -> None:
    """Write model.json, plan.json and dataset.json, or check them against what other folds wrote.

    Args:
        folder: The model folder.
        settings: What prediction needs.
        plan: The plan the model is trained with.
        description: The dataset it is trained on.
        replaced: Folds whose weights are about to be replaced. Where they do not fit what is
            written, they are deleted.
        only_check: Write nothing.

    Raises:
        UserError: other folds in there have other settings, plan or dataset.
    """
    source = _source_hash(plan, settings.configuration, description)
    there = {path: path.parent.name for path in folder.glob("fold_*/*.pt")}
    others = set(there.values()) - {f"fold_{fold}" for fold in replaced}
    known = (folder / "model.json").exists()
    different: Sequence[str] = ()
    if there and known:
        different = _differences(folder, settings, source, readable=bool(others))
    if others and different:
        what = f"this model folder holds folds trained with another {' and '.join(different)}"
        raise UserError(f"{what}: {listing(sorted(others))}", where=folder, fix=train_anew(others))
    if only_check or (others and known):
        return
    for path in there if different else ():
        path.unlink()
    save_plan(folder / "plan.json", plan, made_from=source)
    write_json(folder / "dataset.json", description.content)
    write_artifact(
        folder / "model.json", to_mapping(settings), version=MODEL_VERSION, made_from=source
    )


def train_anew(folds: Collection[str]) -> str:
    """Say how folds (``fold_0``) that do not fit any more are trained again."""
    return (
        "--folds all --overwrite trains all of today's folds anew (others must be deleted first; "
        f"there are {listing(sorted(folds))}); or train under another recipe name "
        "(--recipe FILE), as a model beside this one"
    )


def load_model(folder: Path) -> Model:
    """Read a model folder.

    Raises:
        UserError: it is none, or its parts do not fit together.
    """
    if not (folder / "model.json").is_file():
        inside = folder.name.startswith("fold_") and (folder.parent / "model.json").is_file()
        fix = f"give {folder.parent}" if inside else "train a model first, or check the path"
        raise UserError("not a model folder (no model.json)", where=folder, fix=fix)
    made_from, settings = _read_settings(folder)
    plan = load_plan(folder / "plan.json")
    description = load_description(folder / "dataset.json")
    if made_from != _source_hash(plan, settings.configuration, description):
        raise UserError(
            "plan.json or dataset.json was changed after training",
            where=folder,
            fix="restore the files that came with the model",
        )
    return Model(
        folder=folder,
        settings=settings,
        plan=plan,
        description=planned_description(description, plan),
        made_from=made_from,
    )


def _source_hash(plan: Plan, configuration: str, description: DatasetDescription) -> str:
    """Hash dataset.json and what of the plan a model depends on: its numbers, not its story."""
    own = replace(plan.configuration(configuration), reasons=())
    bare = replace(
        plan,
        name="",
        request=PlanRequest(),
        taken_from=None,
        planned="",
        reasons=(),
        configurations={configuration: own},
    )
    return content_hash([to_mapping(bare, sparse=True), description.content])


def _read_settings(folder: Path) -> tuple[str, ModelSettings]:
    """Read model.json: the hash of what the model was made from, and its settings."""
    path = folder / "model.json"
    made_from = read_artifact(path, version=MODEL_VERSION, remedy=_OLD_MODEL)["made_from"]
    return made_from, read_struct(ModelSettings, path, version=MODEL_VERSION)


def _differences(
    folder: Path, settings: ModelSettings, source: str, *, readable: bool
) -> list[str]:
    """Name what a model folder was begun with and what now is otherwise.

    Raises:
        UserError: it is damaged or of another version, and must be ``readable``.
    """
    try:
        made_from, present = _read_settings(folder)
    except UserError:
        if readable:
            raise
        return ["version of model.json"]
    before, now = _flat(to_mapping(present)), _flat(to_mapping(settings))
    found = [
        f"{key.replace('_', ' ')} ({before.get(key)}, now {now.get(key)})"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    return [*(["plan or dataset.json"] if made_from != source else []), *found]


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by their names, those of mappings inside after the name of the mapping."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        inside = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key} ") if inside else {f"{prefix}{key}": value}
    return flat


def trained_folds(folder: Path, checkpoint: str = "final") -> list[str]:
    """Names of the folds that have a checkpoint; ``all`` only where it stands alone."""
    files = folder.glob(f"fold_*/{checkpoint}.pt")
    folds = sorted(path.parent.name.removeprefix("fold_") for path in files)
    return [fold for fold in folds if fold != "all"] or folds


def load_networks(
    model: Model, folds: Sequence[str] | None, *, checkpoint: str, device: torch.device
) -> list[nn.Module]:
    """Build the network of every fold and load its weights, in eval mode.

    Args:
        model: The model folder.
        folds: Fold names; None takes all that are trained.
        checkpoint: ``final``, ``best`` or ``last``.
        device: Where the networks go.

    Raises:
        UserError: no trained fold, or a fold without that checkpoint; a network that is code which
            nobody allowed, or which is not installed here.
    """
    check_allowed(model.network.class_, where=model.folder / "model.json")
    chosen = list(folds) if folds else trained_folds(model.folder, checkpoint)
    if not chosen:
        what = "no fold of this model is trained to the end"
        fix = _unfinished(model.folder)
        if checkpoint != "final":
            what = f"no such checkpoint: no fold of this model has {checkpoint}.pt"
            fix = "train a fold first, or use another of final, best and last"
        raise UserError(what, where=model.folder, fix=fix)
    return [
        _load_network(model, model.folder / f"fold_{fold}" / f"{checkpoint}.pt", device)
        for fold in chosen
    ]


def _unfinished(folder: Path) -> str:
    """Say what can be done about a model of which no fold is trained to the end."""
    begun, best = (trained_folds(folder, name) for name in ("last", "best"))
    if not begun and not best:
        return "train a fold first"
    finish = f"finish training (segkit train --fold {begun[0]} --resume)" if begun else ""
    return ", or ".join(filter(None, [finish, "use --checkpoint best" if best else ""]))


def _load_network(model: Model, path: Path, device: torch.device) -> nn.Module:
    if not path.is_file():
        present = ", ".join(sorted(p.stem for p in path.parent.glob("*.pt"))) or "none"
        folds = ", ".join(trained_folds(model.folder)) or "none"
        fix = f"checkpoints of this fold: {present}; folds trained to the end: {folds}"
        raise UserError("no such checkpoint", where=path, fix=fix)
    network = build_network(
        model.network,
        in_channels=model.input_channels,
        out_channels=model.description.labels.num_outputs,
        deep_supervision=False,
    )
    try:
        network.load_state_dict(load_checkpoint(path)["network"])
    except (RuntimeError, KeyError) as error:
        what = f"the weights do not fit the plan: {str(error).splitlines()[0]}"
        raise UserError(what, where=path, fix="use the plan.json it was trained with") from None
    return network.to(device).eval()
