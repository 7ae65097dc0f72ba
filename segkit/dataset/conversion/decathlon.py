"""Medical Segmentation Decathlon tasks and nnU-Net v1 data sets: both list their training files.

A Decathlon image holds all channels in one 4D file; nnU-Net v1 has one file a channel already.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from segkit.dataset.case_names import is_usable
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
from segkit.json_text import shown

_ENDING = ".nii.gz"
_KEYS = ("modality", "labels", "training")


def is_decathlon(folder: Path) -> bool:
    """Whether a folder has a dataset.json of this kind."""
    file = folder / "dataset.json"
    content = read_json(file) if file.is_file() else None
    return isinstance(content, dict) and "modality" in content


def convert_decathlon(folder: Path) -> Conversion:
    """Bring a Decathlon task or an nnU-Net v1 data set into today's layout.

    Raises:
        UserError: the dataset.json is of another kind, or files are missing or of other channels.
    """
    content = _read(folder)
    modality = _numbered("modality", content["modality"], folder)
    channels = {str(number): str(modality[number]) for number in sorted(modality)}
    training, test = (
        _names(part, content.get(part) or [], folder) for part in ("training", "test")
    )
    files: dict[str, Write] = {}
    missing: list[str] = []
    for name in training:
        files |= _channels(folder, IMAGES, name, len(channels), missing)
        label = folder / LABELS / f"{name}{_ENDING}"
        missing += [] if label.is_file() else [str(label)]
        files[f"{LABELS}/{name}{_ENDING}"] = copied(label)
    for name in test:
        files |= _channels(folder, TEST_IMAGES, name, len(channels), missing)
    if missing:
        what = f"{len(missing)} files are missing: {listing(missing)}"
        raise UserError(what, where=folder / "dataset.json", fix="restore them, or their entries")
    described_ = described(
        channels=channels,
        labels=_labels(content["labels"], folder),
        cases=len(training),
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
    return content


def _names(part: str, entries: Any, folder: Path) -> list[str]:
    """Return the cases of a list of images; labels are called after them."""
    where = f"{folder / 'dataset.json'}, key {part}"
    listed = entries if isinstance(entries, list) else [entries]
    if part == "test":  # without labels, the Decathlon lists paths
        listed = [entry if isinstance(entry, dict) else {"image": entry} for entry in listed]
    images = [entry.get("image") if isinstance(entry, dict) else None for entry in listed]
    names = [_name(image) for image in images if isinstance(image, str)]
    if len(names) < len(images):
        what = f'every entry of "{part}" names an "image"'
        what += ' and a "label"' if part == "training" else ""
        raise UserError(what, where=where, fix="correct the entries")
    if unusable := [name for name in names if not is_usable(name)]:
        raise UserError(f"{unusable[0]!r} cannot name a case", where=where, fix="rename the image")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"listed twice: {listing(twice)}", where=where, fix="list each once")
    return names


def _name(image: str) -> str:
    """Return the case of an image as the list names it."""
    return Path(image).name.removesuffix(".gz").removesuffix(".nii")


def _numbered(key: str, entries: Any, folder: Path) -> dict[int, Any]:
    """Read the numbers in ``{"0": ..., "1": ...}``."""
    numbers = [*entries] if isinstance(entries, dict) else []
    if not numbers or not all(re.fullmatch(r"\d{1,9}", number) for number in numbers):
        what = f'{key} must be {{"0": NAME, "1": NAME, ...}}, got {shown(entries)}'
        raise UserError(what, where=folder / "dataset.json", fix=f"correct {key}")
    return {int(number): name for number, name in entries.items()}


def _labels(labels: Any, folder: Path) -> dict[str, int]:
    """Turn value -> name around; the background keeps its place whatever it is called."""
    numbered = _numbered("labels", labels, folder)
    found = {str(name): value for value, name in numbered.items()}
    if len(found) != len(labels) or 0 not in numbered:
        what = f"labels must give 0 and every other value a name of its own, got {shown(labels)}"
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
