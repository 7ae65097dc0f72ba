"""A CSV or JSON list of files that stay where they are: only a dataset.json is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segkit.dataset.case_names import is_usable
from segkit.dataset.conversion.conversion import (
    Conversion,
    channel_names,
    common_ending,
    described,
)
from segkit.dataset.conversion.values import name_values, parse_labels, values_in
from segkit.dataset.tables import rows_of_csv
from segkit.errors import UserError, listing, nearest
from segkit.files import read_json
from segkit.parallel import choose_jobs, map_cases

_CASE, _LABEL, _MASK, _IMAGE = ("case", "id"), ("label",), ("mask",), "image"


def convert_manifest(
    file: Path,
    *,
    labels: Sequence[str] = (),
    channels: Sequence[str] = (),
    jobs: int | None = None,
) -> Conversion:
    """Describe the files of a list: columns ``case``, ``image`` (or ``image_0``, ...), ``label``.

    A JSON list holds objects with the same keys, ``image`` a path or a list of them. A column
    ``mask`` names regions of interest. Paths start at the list's folder.

    Args:
        file: The list.
        labels: ``name=value`` settings; empty reads all labels for their values.
        channels: Names of the channels; empty takes the image columns', as in image_T1.
        jobs: Worker processes; None chooses.

    Raises:
        UserError: unknown or missing columns, files that are not there, cases twice.
    """
    rows = _rows(file)
    columns = _image_columns(rows, file)
    cases: dict[str, dict[str, Any]] = {}
    bare = []
    for place, row in enumerate(rows, start=1):
        name, entry = _entry(row, columns, file, place)
        if name in cases or name in bare:
            raise UserError(f"the case {name!r} is listed twice", where=file, fix="list it once")
        if "label" in entry:
            cases[name] = entry
        else:
            bare.append(name)
    if not cases:
        raise UserError("no case has a label", where=file, fix="fill the column label")
    images = [Path(path) for entry in cases.values() for path in entry["images"]]
    maps = [Path(entry["label"]) for entry in cases.values()]
    content = described(
        channels=_channels(next(iter(cases.values()))["images"], columns, channels),
        labels=_labels(maps, labels, jobs),
        cases=len(cases),
        ending=common_ending(images),
        dataset=cases,
    )
    notes = (f"not for training, without a label: {listing(bare)}",) if bare else ()
    return Conversion(content=content, notes=notes)


def _rows(file: Path) -> list[Mapping[str, Any]]:
    rows: Any
    if file.suffix.lower() == ".json":
        content = read_json(file)
        rows = content.get("cases") if isinstance(content, dict) else content
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            what = "expected a list of objects with case, image and label"
            raise UserError(what, where=file, fix='write [{"case": ..., "image": ...}, ...]')
    else:
        rows = rows_of_csv(file)
    if not rows:
        raise UserError("the list holds no case", where=file, fix="add a header and a line a case")
    return rows


def _image_columns(rows: Sequence[Mapping[str, Any]], file: Path) -> list[str]:
    """Check the columns of all rows, and return those of images."""
    known = (*_CASE, *_LABEL, *_MASK)
    columns = dict.fromkeys(key for row in rows for key in row)
    images = [key for key in columns if key.startswith(_IMAGE)]
    if unknown := [key for key in columns if key not in (*known, *images)]:
        fix = nearest(unknown[0], [*known, _IMAGE])
        raise UserError(f"unknown column {unknown[0]!r}", where=file, fix=fix)
    if not images or not any(key in columns for key in _CASE):
        fix = "name the columns case, image (or image_0, image_1, ...) and label"
        raise UserError(f"columns are {', '.join(columns)}", where=file, fix=fix)
    return images


def _entry(
    row: Mapping[str, Any], columns: Sequence[str], file: Path, place: int
) -> tuple[str, dict[str, Any]]:
    where = f"{file}, case {place}"
    name = str(next((row[key] for key in _CASE if row.get(key) is not None), ""))
    if not is_usable(name):
        raise UserError(f"{name!r} cannot name a case", where=where, fix="use another name")
    given = [path for key in columns for path in _paths(row.get(key))]
    entry: dict[str, Any] = {"images": [_there(path, file, where) for path in given]}
    for key in (*_LABEL, *_MASK):
        if row.get(key):
            entry[key] = _there(str(row[key]), file, where)
    if not given:
        raise UserError("the case has no image", where=where, fix="fill the column image")
    return name, entry


def _paths(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(path).strip() for path in values if path]


def _there(path: str, file: Path, where: str) -> str:
    found = (file.parent / path).absolute()
    if not found.exists():
        raise UserError(f"there is no {path}", where=where, fix="relative paths start at the list")
    return str(found)


def _labels(maps: Sequence[Path], given: Sequence[str], jobs: int | None) -> dict[str, int]:
    """Name the values of label files, which stay as they are."""
    if given:
        return parse_labels(given)
    count = choose_jobs(jobs, items=max(1, len(maps) // 8))
    found = map_cases(values_in, maps, label="read labels", jobs=count)
    named = name_values(dict(zip(maps, found, strict=True)), {})
    if named["background"] != 0 or max(named.values()) >= 1 << 32:
        what = "label files that stay where they are hold numbers, with 0 for the background"
        fix = "convert the folders instead: segkit convert FOLDER --masks FOLDER"
        raise UserError(what, where=maps[0], fix=fix)
    return named


def _channels(
    images: Sequence[str], columns: Sequence[str], given: Sequence[str]
) -> dict[str, str]:
    named = [column.removeprefix(_IMAGE).strip("_ ") for column in columns]
    if len(images) == 1:
        found = channel_names(Path(images[0]), given)
        # A picture of several channels has names for them of its own.
        tells = columns[0].startswith(f"{_IMAGE}_") and named[0] not in ("path", "file")
        named_by_column = len(found) == len(named) == 1 and not given and not named[0].isdigit()
        return {"0": named[0]} if named_by_column and tells and named[0] else found
    made_up = named if len(named) == len(images) else [str(i) for i in range(len(images))]
    names = given or made_up
    if len(names) != len(images):
        what = f"--channels names {len(names)} channels; a case has {len(images)} images"
        raise UserError(what, where="--channels", fix=f"give {len(images)} names")
    return {str(i): n if n and not n.isdigit() else f"channel_{i}" for i, n in enumerate(names)}
