"""Begin with the weights of another model: whatever fits is taken over, the rest starts fresh.

Output channels go by the names of what they predict. Ignored voxels have no output channel, so
that a model fits whether or not its data had an ignore label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from segkit.dataset.labels import LabelSchema
from segkit.errors import UserError, listing
from segkit.networks.unet import HEADS
from segkit.training.setup import TrainingTask


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
    schema: LabelSchema
    configuration: str
    channel_names: tuple[str, ...]
    invalid_voxels: str | None
    """``loss.invalid_voxels`` of its recipe; None where that is not known."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Names of a network's tensors by what became of them; output layers are named whole."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    """Of the pretrained network, which this one does not have."""
    loaded_heads: tuple[str, ...]
    """Output layers, one a scale, with weights taken over for some of the outputs."""
    fresh_heads: tuple[str, ...]


def initialize_from(network: nn.Module, pretrained: Pretrained, task: TrainingTask) -> list[str]:
    """Load what fits into the network; returns lines that say what was done and what it means.

    Raises:
        UserError: not one convolution fits.
    """
    outputs = matching_outputs(pretrained.schema, task.schema)
    done = transfer(network, pretrained.weights, outputs)
    # Norms of one width fit any architecture, and alone are worth nothing.
    if not any(pretrained.weights[name].ndim > 2 for name in done.loaded):
        what = "the pretrained model shares no convolution with the network of this plan"
        raise UserError(what, where=pretrained.origin.path, fix=_remedy(pretrained, task))
    poor = len(done.loaded) <= len(done.fresh)
    return [
        f"pretrained weights of {pretrained.origin.path}: {_describe_body(done)}",
        *([f"much starts fresh; to take over more, {_remedy(pretrained, task)}"] if poor else []),
        _describe_outputs(pretrained.schema, task.schema, outputs, done),
        *_describe_data(pretrained, task),
    ]


def matching_outputs(old: LabelSchema, new: LabelSchema) -> dict[int, int]:
    """Map every output channel of ``new`` to the one of ``old`` that predicts the same name.

    Empty where one has a softmax and the other sigmoids, or where they share no target (the
    background alone is worth nothing).
    """
    if old.sigmoid != new.sigmoid or not set(old.target_names) & set(new.target_names):
        return {}
    place = {name: i for i, name in enumerate(old.output_names)}
    return {i: place[name] for i, name in enumerate(new.output_names) if name in place}


def transfer(
    network: nn.Module, weights: Mapping[str, Tensor], outputs: Mapping[int, int]
) -> Transfer:
    """Copy every tensor of the same name and shape, and output channels one by one.

    An output layer is taken over whole, weight and bias, where its input has the same width.

    Args:
        network: Its weights are changed in place.
        weights: State dict of another network.
        outputs: Output channel of the network -> channel of the weights.
    """
    own = network.state_dict()
    body = [name for name in own if not name.startswith(HEADS)]
    heads = sorted({name.rpartition(".")[0] for name in own if name.startswith(HEADS)})
    loaded = [n for n in body if n in weights and weights[n].shape == own[n].shape]
    joined = [head for head in heads if outputs and _inputs_fit(f"{head}.weight", own, weights)]
    for name in loaded:
        own[name].copy_(weights[name])
    for name in (f"{head}.{part}" for head in joined for part in ("weight", "bias")):
        own[name][list(outputs)] = weights[name][list(outputs.values())].to(own[name])
    return Transfer(
        loaded=tuple(loaded),
        fresh=tuple(n for n in body if n not in set(loaded)),
        unused=tuple(n for n in weights if n not in own),
        loaded_heads=tuple(joined),
        fresh_heads=tuple(head for head in heads if head not in joined),
    )


def _inputs_fit(name: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Whether a tensor (out, in, ...) is in both, alike in all but its outputs."""
    return name in weights and weights[name].shape[1:] == own[name].shape[1:]


def _remedy(pretrained: Pretrained, task: TrainingTask) -> str:
    if pretrained.configuration != task.configuration:
        return f"train {pretrained.configuration}, as it was, or begin with another model"
    model = Path(pretrained.origin.path).parent.parent
    return (
        f"train with its plan: 'segkit plan {task.plan.dataset} --from {model} --plan-name NAME', "
        "then preprocess and train with --planner NAME"
    )


def _describe_body(done: Transfer) -> str:
    total = len(done.loaded) + len(done.fresh)
    text = f"{len(done.loaded)} of {total} tensors below the output layers fit"
    if done.fresh:
        text += f"; these have another shape or are new and start fresh: {listing(done.fresh)}"
    if done.unused:
        text += f"; {len(done.unused)} of the pretrained ones have no place here"
    return text


def _describe_outputs(
    old: LabelSchema, new: LabelSchema, outputs: Mapping[int, int], done: Transfer
) -> str:
    before, now = old.output_names, new.output_names
    if old.sigmoid != new.sigmoid:
        kinds = {True: "sigmoid outputs", False: "a softmax"}
        why = f"the pretrained model has {kinds[old.sigmoid]}, this one {kinds[new.sigmoid]}"
        return f"the output layers start fresh: {why}"
    if not outputs:
        why = f"the pretrained model predicts {listing(before)}, this one {listing(now)}"
        return f"the output layers start fresh: {why}"
    if not done.loaded_heads:
        return "the output layers start fresh: those of the pretrained model have other widths"
    total = len(done.loaded_heads) + len(done.fresh_heads)
    where = f" at {len(done.loaded_heads)} of {total} scales" if done.fresh_heads else ""
    text = f"outputs taken over by name{where}: {listing([now[i] for i in outputs])}"
    if fresh := [name for i, name in enumerate(now) if i not in outputs]:
        text += f"; starting fresh: {listing(fresh)}"
    if unused := [name for name in before if name not in now]:
        text += f"; without a place here: {listing(unused)}"
    return text


def _describe_data(pretrained: Pretrained, task: TrainingTask) -> list[str]:
    """Say where the data the weights come from differ from the data they go to."""
    lines = []
    before, now = pretrained.channel_names, task.plan.channel_names
    if before != now:
        what = "go by their place" if len(before) == len(now) else "the first layer starts fresh"
        names = f"the pretrained model saw {listing(before)}, this data set has {listing(now)}"
        lines.append(f"image channels: {names}; {what}")
    old, new = pretrained.schema.ignore_values, task.schema.ignore_values
    if bool(old) != bool(new):
        both = f"the pretrained model had {_ignore(old)}, this data set has {_ignore(new)}"
        lines.append(f"{both}: no matter, ignored voxels never have an output channel")
    invalid = task.invalid_voxels
    if pretrained.invalid_voxels not in (None, invalid):
        lines.append(
            f"loss.invalid_voxels was {pretrained.invalid_voxels!r}, and now is {invalid!r}: the "
            "weights fit, and outside the image the outputs may differ until training has adapted"
        )
    return lines


def _ignore(values: tuple[int, ...]) -> str:
    return f"an ignore label (value {', '.join(map(str, values))})" if values else "none"
