"""What a conversion is, and how it is written: a folder that is complete, or not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from segkit.dataset.checks.content import check_content
from segkit.dataset.image_io import KNOWN_ENDINGS, companions, ending_of, read_header
from segkit.dataset.mending.copying import check_place
from segkit.dataset.problems import raise_errors
from segkit.errors import UserError, listing
from segkit.files import atomic_folder, write_json
from segkit.parallel import choose_jobs, map_cases

Write = Callable[[Path], None]
"""Writes one file to the path it is given; picklable."""
IMAGES, LABELS, TEST_IMAGES = "imagesTr", "labelsTr", "imagesTs"
_COLOURS = {1: ("image",), 2: ("grey", "alpha"), 3: ("R", "G", "B"), 4: ("R", "G", "B", "A")}


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A data set to be made: its description, and what writes each of its files."""

    content: dict[str, Any] | None
    """dataset.json; None for images alone."""
    files: dict[str, Write] = field(default_factory=dict)
    """Path in the new folder -> what writes it."""
    notes: tuple[str, ...] = ()
    """What the user should know of, one line each."""


def write_conversion(
    conversion: Conversion, source: Path, out: Path, *, jobs: int | None = None
) -> None:
    """Write the data set; an error leaves nothing behind.

    Args:
        conversion: What to write.
        source: Where it comes from.
        out: The new folder; it must not exist yet, or be empty.
        jobs: Worker processes; None chooses.

    Raises:
        UserError: a place that cannot be used, names that a dataset.json cannot have, or files
            that cannot be read.
    """
    if conversion.content is not None:
        where = f"dataset.json as made of {source}"
        raise_errors(check_content(conversion.content, where), where=where)
    folder = source if source.is_dir() else source.parent
    if conversion.files or out.resolve() == folder.resolve():
        check_place(out.resolve(), folder.resolve())
    elif out.is_dir() and any(out.iterdir()):
        raise UserError("the folder is not empty", where=out, fix="choose a new one")
    with atomic_folder(out.resolve()) as draft:
        items = [(draft / place, write) for place, write in conversion.files.items()]
        map_cases(
            _write,
            items,
            label="convert",
            jobs=choose_jobs(jobs, items=max(1, len(items) // 16)),
            name=lambda item: str(item[0].relative_to(draft)),
        )
        if conversion.content is not None:
            write_json(draft / "dataset.json", conversion.content)


def _write(item: tuple[Path, Write]) -> None:
    path, write = item
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)


def copied(source: Path) -> Write:
    """Copy a file, and what belongs to it, under the new name."""
    return partial(_copy, source)


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
        for other in companions(source):
            shutil.copyfile(other, target.with_suffix(other.suffix))
    except OSError as error:
        fix = "check the file and its permissions"
        raise UserError(f"cannot copy it: {error.strerror}", where=source, fix=fix) from None


def described(
    *, channels: Mapping[str, str], labels: Mapping[str, Any], cases: int, ending: str, **more: Any
) -> dict[str, Any]:
    """Return a dataset.json."""
    return {
        "channel_names": dict(channels),
        "labels": dict(labels),
        "numTraining": cases,
        "file_ending": ending,
        **more,
    }


def images_in(folder: Path) -> list[Path]:
    """List the visible image files of a folder, sorted.

    Raises:
        UserError: no such folder.
    """
    if not folder.is_dir():
        raise UserError("no such folder", where=folder, fix="check the path")
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(KNOWN_ENDINGS) and not path.name.startswith(".")
    )


def common_ending(files: list[Path]) -> str:
    """Return the ending that all image files have, as it is written.

    Raises:
        UserError: there are several.
    """
    endings = sorted({path.name[-len(ending_of(path)) :] for path in files})
    if len(endings) > 1:
        what = f"the images have several endings: {listing(endings)}"
        fix = "convert them to one format, or keep those of one ending"
        raise UserError(what, where=files[0].parent, fix=fix)
    return endings[0]


def channel_names(image: Path, given: Sequence[str]) -> dict[str, str]:
    """Name the channels of an image file."""
    count = read_header(image).channels
    if given and len(given) != count:
        what = f"--channels names {len(given)} channels; {image.name} has {count}"
        raise UserError(what, where=image, fix=f"give {count} names")
    names = given or _COLOURS.get(count) or [f"channel_{i}" for i in range(count)]
    return {str(i): name for i, name in enumerate(names)}
