"""Medical Segmentation Decathlon tasks and nnU-Net v1 data sets: both list their training files.

A Decathlon image holds all channels in one 4D file; nnU-Net v1 has one file a channel already.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from segkit.dataset.conversion.conversion import (
    IMAGES,
    LABELS,
    TEST_IMAGES,
    Conversion,
    Write,
    copied,
    described,
)
from segkit.dataset.image_io import read_header
from segkit.errors import UserError, listing
from segkit.files import read_json

_ENDING = ".nii.gz"
_KEYS = ("modality", "labels", "training")


def is_decathlon(folder: Path) -> bool:
    """Whether a folder has a dataset.json of this kind."""
    file = folder / "dataset.json"
    return file.is_file() and "modality" in (read_json(file) or {})


def convert_decathlon(folder: Path) -> Conversion:
    """Bring a Decathlon task or an nnU-Net v1 data set into today's layout.

    Raises:
        UserError: the dataset.json is of another kind, or files are missing or of other channels.
    """
    content = _read(folder)
    channels = {key: str(content["modality"][key]) for key in sorted(content["modality"], key=int)}
    files: dict[str, Write] = {}
    missing: list[str] = []
    for entry in content["training"]:
        name = _name(entry["image"])
        files |= _channels(folder, IMAGES, name, len(channels), missing)
        label = folder / LABELS / f"{name}{_ENDING}"
        missing += [] if label.is_file() else [str(label)]
        files[f"{LABELS}/{name}{_ENDING}"] = copied(label)
    for entry in content.get("test", []):
        name = _name(entry["image"] if isinstance(entry, dict) else entry)
        files |= _channels(folder, TEST_IMAGES, name, len(channels), missing)
    if missing:
        what = f"{len(missing)} files are missing: {listing(missing)}"
        raise UserError(what, where=folder / "dataset.json", fix="restore them, or their entries")
    described_ = described(
        channels=channels,
        labels=_labels(content["labels"], folder),
        cases=len(content["training"]),
        ending=_ENDING,
        **{key: content[key] for key in ("name", "description", "reference", "licence", "release")
           if key in content},
    )  # fmt: skip
    return Conversion(content=described_, files=files)


def _read(folder: Path) -> Mapping[str, Any]:
    file = folder / "dataset.json"
    content = read_json(file)
    absent = [key for key in _KEYS if not isinstance(content, dict) or not content.get(key)]
    if absent:
        what = f"not a dataset.json of the Decathlon or nnU-Net v1: no {', '.join(absent)}"
        raise UserError(what, where=file, fix="choose what it is with --from")
    training = content["training"]
    if not all(isinstance(entry, dict) and "image" in entry for entry in training):
        what = 'every entry of "training" names an "image" and a "label"'
        raise UserError(what, where=file, fix="correct the entries")
    return content


def _name(image: str) -> str:
    """Return the case of an image as the list names it."""
    return Path(image).name.removesuffix(".gz").removesuffix(".nii")


def _labels(labels: Mapping[str, Any], folder: Path) -> dict[str, int]:
    """Turn value -> name around; the background keeps its place whatever it is called."""
    found = {str(name): int(value) for value, name in labels.items()}
    if len(found) != len(labels) or 0 not in found.values():
        what = f"labels must give 0 and every other value a name of its own, got {dict(labels)}"
        raise UserError(what, where=folder / "dataset.json", fix="correct the labels")
    ordered = sorted(found.items(), key=lambda item: item[1])
    return {"background": 0, **{name: value for name, value in ordered if value}}


def _channels(
    folder: Path, part: str, name: str, count: int, missing: list[str]
) -> dict[str, Write]:
    """Say what writes the channels of a case: files of their own, or parts of one."""
    targets = [f"{part}/{name}_{number:04d}{_ENDING}" for number in range(count)]
    whole = folder / part / f"{name}{_ENDING}"
    if whole.is_file():
        found = read_header(whole).channels
        if found != count:
            what = f"the image holds {found} channels, dataset.json declares {count}"
            raise UserError(what, where=whole, fix='correct "modality"')
        single = count == 1
        return {
            target: copied(whole) if single else partial(_write_channel, whole, number)
            for number, target in enumerate(targets)
        }
    missing += [target for target in targets if not (folder / target).is_file()]
    return {target: copied(folder / target) for target in targets}


def _write_channel(source: Path, number: int, target: Path) -> None:
    """Cut one channel out of a 4D image; values and header stay as they are."""
    import nibabel

    image = nibabel.load(source)
    nibabel.save(image.slicer[..., number], target)
