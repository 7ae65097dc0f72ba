"""The order of classes in the weights: by value in nnU-Net, as declared in segkit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from segkit.dataset.labels import LabelSchema
from segkit.inference.model import Model
from segkit.networks.unet import HEADS


def classes_by_value(weights: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Bring outputs, and in a cascade the inputs of the classes, to nnU-Net's order."""
    places = value_order(model.description.labels)
    return _permuted(weights, model, places)


def classes_in_order(weights: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Bring them back to the order of declaration."""
    places = value_order(model.description.labels)
    return _permuted(weights, model, [places.index(i) for i in range(len(places))])


def value_order(labels: LabelSchema) -> list[int]:
    """Return the places of the classes in the order of their values."""
    return sorted(range(len(labels.classes)), key=lambda place: labels.classes[place].value)


def _permuted(
    weights: Mapping[str, Tensor], model: Model, classes: Sequence[int]
) -> dict[str, Tensor]:
    """Take classes from these places; regions are in the order of declaration in both."""
    permuted = dict(weights)
    if not model.description.labels.has_regions:
        rows = [0, *(1 + place for place in classes)]
        for name in weights:
            if name.startswith(HEADS):
                permuted[name] = weights[name][rows]
    if model.is_cascade:
        image = len(model.plan.channel_names)
        columns = [*range(image), *(image + place for place in classes)]
        first = next(name for name in weights if name.endswith("conv.weight"))
        permuted[first] = weights[first][:, columns]
    return permuted
