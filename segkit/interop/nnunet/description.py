"""nnU-Net's dataset.json to one that means the same here, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkit.dataset.checks.content import check_content
from segkit.dataset.description import DatasetDescription
from segkit.dataset.image_io import READERS
from segkit.dataset.problems import raise_errors
from segkit.errors import UserError, nearest

_NNUNET_KEYS = (
    *("channel_names", "numTraining", "file_ending", "regions_class_order"),
    *("name", "description", "reference", "release", "licence", "license", "citation"),
)
"""Keys of a dataset.json that nnU-Net knows, besides labels."""


def model_description(content: Any, reader: str, source: object) -> dict[str, Any]:
    """Return the dataset.json of an imported model.

    nnU-Net orders the outputs of a network by the values of the labels, segkit by their
    declaration: labels are declared by value. Regions are ordered by their declaration in both.
    The image reader is the one named in the plans.

    Args:
        content: The dataset.json that lies beside nnU-Net's plans.
        reader: ``image_reader_writer`` of the plans.
        source: File, for messages.

    Raises:
        UserError: it is malformed, or holds what segkit reads otherwise.
    """
    if not isinstance(content, Mapping):
        what = f"expected keys and values, got {content!r}"
        raise UserError(what, where=source, fix="restore the file from its source")
    if reader not in READERS:
        fix = f"{nearest(reader, READERS)}; such a model cannot be imported"
        raise UserError(f"the plans name the image reader {reader!r}", where=source, fix=fix)
    # The training cases are no part of a model; nnU-Net's oldest channels are called modality.
    kept = {key: value for key, value in content.items() if key not in ("dataset", "modality")}
    if "modality" in content:
        kept.setdefault("channel_names", content["modality"])
    labels = content.get("labels")
    if isinstance(labels, Mapping) and not _has_regions(labels):
        kept["labels"] = _by_value(labels)
    kept["overwrite_image_reader_writer"] = reader
    raise_errors(check_content(kept, source), where=source)
    _check_consecutive(kept["labels"], source)
    return kept


def nnunet_description(description: DatasetDescription) -> dict[str, Any]:
    """Return the dataset.json that nnU-Net predicts with.

    Labels are declared by value, and an ignore label is kept where nnU-Net has the same: one value,
    after the last class. Nothing is predicted as ignored either way.
    """
    content, labels = description.content, description.labels
    kept = {key: content[key] for key in _NNUNET_KEYS if key in content}
    names = {name: value for name, value in content["labels"].items() if name != "ignore"}
    made = names if labels.has_regions else _by_value(names)
    if labels.ignore_values == (labels.num_classes,):
        made["ignore"] = labels.num_classes
    return {"numTraining": 0, **kept, "labels": made}


def _has_regions(labels: Mapping[str, Any]) -> bool:
    """Whether nnU-Net trains regions: one label at least stands for several classes."""
    return any(isinstance(value, list) and len(value) > 1 for value in labels.values())


def _by_value(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Order labels by value where all are numbers; what is malformed is told elsewhere."""
    values = {name: _single(value) for name, value in labels.items()}
    if not all(isinstance(value, int) for value in values.values()):
        return dict(labels)
    return dict(sorted(values.items(), key=lambda item: item[1]))


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _check_consecutive(labels: Mapping[str, Any], source: object) -> None:
    """Refuse gaps, over which nnU-Net's outputs have no order of their own."""
    lists = (value if isinstance(value, list) else [value] for value in labels.values())
    values = sorted({value for members in lists for value in members})
    if values != list(range(len(values))):
        what = f"the label values are {values}; nnU-Net's are consecutive, from 0"
        raise UserError(what, where=source, fix="restore the dataset.json that was trained with")
