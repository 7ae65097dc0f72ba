"""Begin with the weights of another model: what fits is taken over, made to fit where it can be.

Input channels go by their names, output channels by the names of what they predict. Ignored voxels
have no output channel, so that a model fits whether or not its data had an ignore label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segkit.dataset.labels import LabelSchema
from segkit.errors import UserError
from segkit.networks.inputs import given_classes
from segkit.planning.plan import NetworkPlan
from segkit.training.surgery import channel_mixing, with_class_channels
from segkit.training.tailoring import Source
from segkit.training.task import TrainingTask
from segkit.training.transfer import Fate, transfer, unused
from segkit.training.transfer_report import (
    describe_inputs,
    describe_labels,
    describe_outputs,
    summary,
    table,
)

PRETRAINED_FILE = "pretrained.json"
"""In a fold's folder: what became of every tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Which checkpoint a run began with."""

    path: str
    content_hash: str


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights to begin with, and what they were trained for."""

    origin: Origin
    weights: Mapping[str, Tensor]
    """State dict of a network."""
    network: NetworkPlan
    """What it was built from."""
    schema: LabelSchema
    configuration: str
    channel_names: tuple[str, ...]
    given_classes: tuple[str, ...] = ()
    """Classes of a previous stage that it was given a channel each, after those of the image."""
    invalid_voxels: str | None = None
    """``loss.invalid_voxels`` of its recipe; None where that is not known."""


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """How a run began: lines for the reader, and the content of ``pretrained.json``."""

    lines: Sequence[str]
    content: Mapping[str, Any]


def initialize_from(network: nn.Module, pretrained: Pretrained, task: TrainingTask) -> Beginning:
    """Load what fits into the network.

    Raises:
        UserError: not one convolution fits.
    """
    source = _source(pretrained, task)
    fates = transfer(network, task.network, source)
    own = network.state_dict()
    # Norms of one width fit any architecture, and alone are worth nothing.
    if not any(own[fate.tensor].ndim > 2 for fate in fates if fate.became != "fresh"):
        what = "the pretrained model shares no convolution with the network of this plan"
        raise UserError(what, where=pretrained.origin.path, fix=_remedy(pretrained, task))
    fresh = [fate for fate in fates if fate.became == "fresh"]
    poor = 2 * len(fresh) >= len(fates)
    lines = [
        f"pretrained weights of {pretrained.origin.path}: {summary(fates)}",
        table(fates),
        *([f"much starts fresh; to take over more, {_remedy(pretrained, task)}"] if poor else []),
        describe_outputs(pretrained.schema, task.schema, source.outputs, fates),
        *describe_inputs(_inputs(pretrained), _inputs_of(task), source.mixing),
        *describe_labels(pretrained.schema, task.schema),
        *_describe_invalid(pretrained, task),
    ]
    return Beginning(lines=lines, content=_content(pretrained, fates, source))


def matching_outputs(old: LabelSchema, new: LabelSchema) -> dict[int, int]:
    """Map every output channel of ``new`` to the one of ``old`` that predicts the same name.

    Empty where one has a softmax and the other sigmoids, or where they share no target (the
    background alone is worth nothing).
    """
    if old.sigmoid != new.sigmoid or not set(old.target_names) & set(new.target_names):
        return {}
    place = {name: i for i, name in enumerate(old.output_names)}
    return {i: place[name] for i, name in enumerate(new.output_names) if name in place}


def _source(pretrained: Pretrained, task: TrainingTask) -> Source:
    mixing = channel_mixing(pretrained.channel_names, task.plan.channel_names)
    return Source(
        weights=pretrained.weights,
        network=pretrained.network,
        mixing=with_class_channels(mixing, pretrained.given_classes, _given_classes(task)),
        outputs=matching_outputs(pretrained.schema, task.schema),
        new_outputs=task.schema.num_outputs,
        old_outputs=pretrained.schema.num_outputs,
    )


def _given_classes(task: TrainingTask) -> tuple[str, ...]:
    return given_classes(task.plan, task.configuration, task.schema)


def _inputs(pretrained: Pretrained) -> tuple[str, ...]:
    return *pretrained.channel_names, *_previous(pretrained.given_classes)


def _inputs_of(task: TrainingTask) -> tuple[str, ...]:
    return *task.plan.channel_names, *_previous(_given_classes(task))


def _previous(classes: Sequence[str]) -> list[str]:
    return [f"{name} of the previous stage" for name in classes]


def _content(pretrained: Pretrained, fates: Sequence[Fate], source: Source) -> dict[str, Any]:
    tensors = [
        {"tensor": fate.tensor, "became": fate.became, "from": fate.source, "how": fate.how}
        for fate in fates
    ]
    return {
        "checkpoint": pretrained.origin.path,
        "content_hash": pretrained.origin.content_hash,
        "tensors": tensors,
        "unused": unused(fates, source),
    }


def _remedy(pretrained: Pretrained, task: TrainingTask) -> str:
    if pretrained.configuration != task.configuration:
        return f"train {pretrained.configuration}, as it was, or begin with another model"
    model = Path(pretrained.origin.path).parent.parent
    return (
        f"train with its plan: 'segkit plan {task.plan.dataset} --from {model} --plan-name NAME', "
        "then preprocess and train with --planner NAME"
    )


def _describe_invalid(pretrained: Pretrained, task: TrainingTask) -> list[str]:
    invalid = task.invalid_voxels
    if pretrained.invalid_voxels in (None, invalid):
        return []
    return [
        f"loss.invalid_voxels was {pretrained.invalid_voxels!r}, and now is {invalid!r}: the "
        "weights fit, and outside the image the outputs may differ until training has adapted"
    ]
