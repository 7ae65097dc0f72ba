"""COCO annotations (polygons and run lengths) painted to label maps: a class a category."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

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
)
from segkit.dataset.description import label_ending
from segkit.dataset.image_io import ending_of, write_labels
from segkit.errors import UserError, listing
from segkit.files import read_json
from segkit.json_text import shown

_Id = int | str
_KEYS: dict[str, dict[str, Any]] = {
    "images": {"id": _Id, "file_name": str, "height": int, "width": int},
    "annotations": {"image_id": _Id, "category_id": _Id, "segmentation": object},
    "categories": {"id": _Id, "name": str},
}
"""Lists that COCO annotations hold -> what every entry needs, and its type."""


def is_coco(file: Path) -> bool:
    """Whether a JSON file holds COCO annotations."""
    content = read_json(file)
    return isinstance(content, dict) and all(key in content for key in _KEYS)


def convert_coco(file: Path, images: Path | None, *, channels: Sequence[str] = ()) -> Conversion:
    """Paint the annotations of every image, the largest first, so that small ones stay seen.

    Which object a pixel belongs to is given up: objects of a category are one class.

    Args:
        file: The JSON.
        images: Folder of the images; None looks beside the file and in ``images``.
        channels: Names of the image channels; empty makes them up.

    Raises:
        UserError: not COCO, images that are missing or that no case can be named after, or
            segmentations that cannot be read.
    """
    content = _read(file)
    folder = _image_folder(content["images"], images, file)
    categories = sorted(content["categories"], key=lambda one: _order(one["id"]))
    numbers = {one["id"]: number for number, one in enumerate(categories, start=1)}
    by_image: defaultdict[_Id, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    cases = _cases([folder / image["file_name"] for image in content["images"]], file)
    ending = common_ending([*cases.values()])
    files: dict[str, Write] = {}
    for image, (case, path) in zip(content["images"], cases.items(), strict=True):
        annotated = by_image[image["id"]]
        files[f"{IMAGES if annotated else TEST_IMAGES}/{case}_0000{ending}"] = copied(path)
        if annotated:
            size = image["height"], image["width"]
            areas = tuple((numbers[a["category_id"]], a["segmentation"]) for a in annotated)
            place = f"{LABELS}/{case}{label_ending(ending)}"
            files[place] = partial(_write_painted, size, areas, case)
    count = sum(1 for place in files if place.startswith(LABELS))
    labels = {one["name"]: numbers[one["id"]] for one in categories}
    described_ = described(
        channels=channel_names(next(iter(cases.values())), channels),
        labels={"background": 0, **labels},
        cases=count,
        ending=ending,
    )
    note = f"{len(content['annotations'])} objects painted, the largest first: {listing([*labels])}"
    return Conversion(content=described_, files=files, notes=(note,))


def _read(file: Path) -> dict[str, Any]:
    content = read_json(file)
    absent = [k for k in _KEYS if not isinstance(content, dict) or not content.get(k)]
    if absent:
        what = f"no COCO annotations: {', '.join(absent)} missing or empty"
        raise UserError(what, where=file, fix="give the JSON with images, annotations, categories")
    for part, wanted in _KEYS.items():
        _check_entries(content[part], wanted, f"{file}, key {part}")
    known = {part: _ids(content[part], f"{file}, key {part}") for part in ("images", "categories")}
    for key, part in (("category_id", "categories"), ("image_id", "images")):
        given = {annotation[key] for annotation in content["annotations"]}
        if unknown := sorted(given - known[part], key=_order):
            what = f"annotations of {part} that are not declared: {listing([*map(str, unknown)])}"
            raise UserError(what, where=file, fix=f"declare them under {part}")
    names = [one["name"] for one in content["categories"]]
    if len(set(names)) < len(names) or "background" in names:
        what = "every category needs a name of its own, other than background"
        raise UserError(what, where=file, fix="rename the categories")
    return content


def _check_entries(entries: Any, wanted: Mapping[str, Any], where: str) -> None:
    """Refuse entries that lack a key, or have something else in its place."""
    if not isinstance(entries, list):
        raise UserError(
            f"expected a list, got {shown(entries)}", where=where, fix="export it again"
        )
    for place, entry in enumerate(entries):
        for key, kind in wanted.items():
            value = entry.get(key) if isinstance(entry, dict) else None
            if value is None or isinstance(value, bool) or not isinstance(value, kind):
                found = "is missing" if value is None else f"is {shown(value)}"
                what = f"{key} of entry {place} (from 0) {found}"
                raise UserError(what, where=where, fix="add or correct it, or export it again")


def _ids(entries: Sequence[Mapping[str, Any]], where: str) -> set[_Id]:
    counts = Counter(one["id"] for one in entries)
    if twice := [number for number, count in counts.items() if count > 1]:
        what = f"several entries have the id {twice[0]!r}"
        raise UserError(what, where=where, fix="give each an id of its own")
    return set(counts)


def _order(number: _Id) -> tuple[bool, Any]:
    """Sort ids: numbers, then texts."""
    return isinstance(number, str), number


def _cases(images: Sequence[Path], file: Path) -> dict[str, Path]:
    """Name a case after every image: case -> image."""
    cases: dict[str, Path] = {}
    for path in images:
        case = path.name[: -len(ending_of(path))]
        if not is_usable(case):
            what, fix = f"{case!r} cannot name a case", "rename the image, and its file_name"
            raise UserError(what, where=path, fix=fix)
        if (other := cases.setdefault(case, path)) is not path:
            what = f"{other} and {path} would be the same case, {case}"
            raise UserError(what, where=file, fix="rename one of them, and its file_name")
    return cases


def _image_folder(images: Sequence[Mapping[str, Any]], given: Path | None, file: Path) -> Path:
    places = [given] if given else [file.parent, file.parent / "images"]
    for folder in places:
        absent = [one["file_name"] for one in images if not (folder / one["file_name"]).is_file()]
        if not absent:
            return folder
    what = f"{len(absent)} images are not there, such as {absent[0]}"
    raise UserError(what, where=places[-1], fix="give the folder of the images with --images")


def _write_painted(
    size: tuple[int, int], areas: Sequence[tuple[int, Any]], case: str, target: Path
) -> None:
    from segkit.dataset.image_io.image2d_io import PLANE

    masks = [(number, region_mask(segmentation, size, case)) for number, segmentation in areas]
    labels = np.zeros(size, dtype=np.uint16)
    for number, mask in sorted(masks, key=lambda pair: -int(pair[1].sum())):
        labels[mask] = number
    write_labels(target, labels[None], PLANE)


def region_mask(segmentation: Any, size: tuple[int, int], case: str) -> np.ndarray:
    """Return (height, width) bool from polygons ``[[x, y, x, y, ...], ...]`` or run lengths.

    Raises:
        UserError: neither.
    """
    try:
        if isinstance(segmentation, list) and segmentation:
            return _polygons(segmentation, size)
        if isinstance(segmentation, dict):
            return _runs(segmentation["counts"], size)
    except (ValueError, TypeError, KeyError, OverflowError):
        pass
    what = "a segmentation is neither polygons nor run lengths of the image's size"
    raise UserError(what, where=f"an annotation of image {case}", fix="export it again")


def _runs(counts: Any, size: tuple[int, int]) -> np.ndarray:
    """Raises ValueError or TypeError where these are no run lengths."""
    runs = _decode_text(counts) if isinstance(counts, str) else [index(run) for run in counts]
    if sum(runs) != size[0] * size[1] or min(runs) < 0:
        raise ValueError("other run lengths")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size[::-1]).T  # runs go down the columns


def _polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    from PIL import Image, ImageDraw

    canvas = Image.new("1", size[::-1])
    for points in polygons:
        ImageDraw.Draw(canvas).polygon([float(value) for value in points], fill=1)
    return np.asarray(canvas, dtype=bool)


def _decode_text(text: str) -> list[int]:
    """Decode COCO's compressed run lengths.

    Numbers are little-endian groups of five bits, from character 48 on; 32 says that more follow,
    16 in the last one that the number is negative. From the third on they are differences to the
    number two before.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text.encode():
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (1 << shift) if bits & 16 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs
