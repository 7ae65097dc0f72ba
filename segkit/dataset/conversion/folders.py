"""A folder of images and a folder of masks, paired by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from segkit.dataset.case_names import is_usable
from segkit.dataset.conversion.conversion import (
    IMAGES,
    LABELS,
    TEST_IMAGES,
    Conversion,
    Write,
    channel_names,
    common_ending,
    copied,
    described,
    images_in,
)
from segkit.dataset.conversion.values import (
    as_labels,
    name_values,
    parse_labels,
    read_values,
    value_text,
    values_in,
)
from segkit.dataset.description import label_ending
from segkit.dataset.image_io import ending_of, write_labels
from segkit.errors import UserError, listing
from segkit.parallel import choose_jobs, map_cases

IMAGE_FOLDERS = ("images", "image", "img", "imgs", "imagesTr", "scans", "JPEGImages")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "labelsTr", "annotations", "gt", "groundtruth",
                "segmentations", "SegmentationClass")  # fmt: skip
_SUFFIX = re.compile(
    r"[-_. ]?(mask|masks|label|labels|seg|segmentation|gt|groundtruth|0000)$", re.I
)


def find_folders(source: Path, masks: Path | None) -> tuple[Path, Path]:
    """Return the folders of images and of masks.

    Raises:
        UserError: they cannot be told.
    """
    inside = {path.name: path for path in source.iterdir() if path.is_dir()}
    images = next((inside[name] for name in IMAGE_FOLDERS if name in inside), source)
    masks = masks or next((inside[name] for name in MASK_FOLDERS if name in inside), None)
    if masks is None:
        fix = "give the folder of the masks with --masks"
        raise UserError(f"no folder of masks ({', '.join(MASK_FOLDERS)})", where=source, fix=fix)
    return images, masks


def convert_folders(
    images: Path,
    masks: Path,
    *,
    labels: Sequence[str] = (),
    channels: Sequence[str] = (),
    jobs: int | None = None,
) -> Conversion:
    """Pair images and masks by name (``x.png`` with ``x.png``, ``x_mask.png``, ``x_seg.tif``).

    Masks hold numbers or colours; what they hold becomes 0, 1, 2, ... Images without a mask go to
    imagesTs.

    Args:
        images: Folder of images, one file a case.
        masks: Folder of masks.
        labels: ``name=value`` settings; empty names what is found.
        channels: Names of the image channels; empty makes them up.
        jobs: Worker processes; None chooses.

    Raises:
        UserError: masks without image, several masks for an image, values that are no labels.
    """
    pictures = {_case(path): path for path in _one_a_case(images_in(images))}
    annotated = {_case(path): path for path in _one_a_case(images_in(masks))}
    if lonely := sorted(annotated.keys() - pictures.keys()):
        what = (
            f"masks without an image of that name: {listing([annotated[n].name for n in lonely])}"
        )
        raise UserError(what, where=masks, fix=f"add or rename the images in {images}")
    if not annotated:
        raise UserError("no mask is an image of a known format", where=masks, fix="check --masks")
    paths = sorted(annotated.values())
    found = map_cases(
        values_in, paths, label="read masks", jobs=choose_jobs(jobs, items=max(1, len(paths) // 8))
    )
    named = name_values(dict(zip(paths, found, strict=True)), parse_labels(labels))
    ending = common_ending(list(pictures.values()))
    files: dict[str, Write] = {}
    for case, path in pictures.items():
        part = IMAGES if case in annotated else TEST_IMAGES
        files[f"{part}/{case}_0000{ending}"] = copied(path)
    for case, path in annotated.items():
        write = partial(_write_labels, path, tuple(named.values()))
        files[f"{LABELS}/{case}{label_ending(ending)}"] = write
    content = described(
        channels=channel_names(next(iter(pictures.values())), channels),
        labels={name: number for number, name in enumerate(named)},
        cases=len(annotated),
        ending=ending,
    )
    return Conversion(content=content, files=files, notes=_notes(named, pictures, annotated))


def _case(path: Path) -> str:
    """Return what an image and its mask have in common."""
    stem = path.name[: -len(ending_of(path))]
    bare = _SUFFIX.sub("", stem) or stem
    if not is_usable(bare):
        raise UserError(f"{bare!r} cannot name a case", where=path, fix="rename the file")
    return bare


def _one_a_case(files: list[Path]) -> list[Path]:
    seen: dict[str, Path] = {}
    for path in files:
        if (other := seen.setdefault(_case(path), path)) is not path:
            what = f"{other.name} and {path.name} are of the same case"
            fix = "keep one; for masks of one structure each see label_encoding in the README"
            raise UserError(what, where=path.parent, fix=fix)
    return files


def _write_labels(source: Path, order: tuple[int, ...], target: Path) -> None:
    values, geometry = read_values(source)
    write_labels(target, as_labels(values, order), geometry)


def _notes(
    named: Mapping[str, int], pictures: Mapping[str, Path], annotated: Mapping[str, Path]
) -> tuple[str, ...]:
    rows = enumerate(named.items())
    listed = ", ".join(f"{value_text(value)} -> {number} {name}" for number, (name, value) in rows)
    notes = [f"labels: {listed}"]
    if bare := len(pictures) - len(annotated):
        notes.append(f"{bare} images have no mask and went to {TEST_IMAGES}")
    return tuple(notes)
