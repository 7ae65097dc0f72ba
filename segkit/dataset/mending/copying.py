"""A whole data set copied, so that nothing done to the copy can change the original."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segkit.dataset.checks.content import CASE_KEYS
from segkit.dataset.image_io import companions
from segkit.errors import UserError
from segkit.runtime import log, progress

_OUTSIDE = "outside"


def check_place(out: Path, folder: Path) -> None:
    """Check that a copy of ``folder`` can be put at ``out``; both are resolved paths.

    Raises:
        UserError: inside the data set or around it, a file, or a folder that holds something.
    """
    fix = "choose a folder that does not exist yet, outside of the data set"
    if out.is_relative_to(folder):
        raise UserError("the copy would lie inside the data set", where=out, fix=fix)
    if folder.is_relative_to(out):
        raise UserError("the copy would lie around the data set", where=out, fix=fix)
    if out.exists() and not out.is_dir():
        raise UserError("this is a file", where=out, fix=fix)
    if out.is_dir() and any(out.iterdir()):
        raise UserError("the folder is not empty", where=out, fix=fix)


def place_files(
    cases: Mapping[str, Mapping[str, Any]], folder: Path
) -> tuple[dict[str, Any], dict[Path, str]]:
    """Give every file of an explicit case list a place inside the copy.

    Files in the data set's folder keep theirs; others go to ``outside/0000`` and so on, or, where
    the data set has such a path already, to ``outside_2/0000``.

    Args:
        cases: Case -> its files (the ``dataset`` key); empty where the folders say it all.
        folder: Of the original, absolute.

    Returns:
        The cases with paths that lead nowhere but into the copy, and the files (or label folders)
        from elsewhere with their places in the copy.
    """
    places: dict[Path, str] = {}
    names = itertools.chain([_OUTSIDE], (f"{_OUTSIDE}_{i}" for i in itertools.count(2)))
    free = next(name for name in names if not os.path.lexists(folder / name))

    def place(path: str) -> str:
        source = _absolute(folder / os.path.expandvars(path))
        if source.is_relative_to(folder):
            return str(source.relative_to(folder))
        return places.setdefault(source, f"{free}/{len(places):04d}/{source.name}")

    def placed(key: str, value: Any) -> Any:
        if key not in CASE_KEYS:
            return value
        return [place(path) for path in value] if isinstance(value, list) else place(value)

    listed = {
        name: {key: placed(key, value) for key, value in entry.items()}
        for name, entry in cases.items()
    }
    return listed, places


def place_of(file: Path, folder: Path, places: Mapping[Path, str]) -> str:
    """Return where a file of the data set lies in the copy (see :func:`place_files`).

    Raises:
        ValueError: it belongs neither to the folder nor to ``places``.
    """
    file = _absolute(file)
    for source, place in places.items():
        if file.is_relative_to(source):
            return str(place / file.relative_to(source))
    return str(file.relative_to(folder))


def _absolute(path: Path) -> Path:
    """Resolve ``..`` but no links."""
    return Path(os.path.normpath(path.absolute()))


def copy_rest(folder: Path, draft: Path, places: Mapping[Path, str]) -> None:
    """Copy all but what was mended; links are followed, never copied as links.

    Args:
        folder: The original.
        draft: Where the copy is made; holds the mended files, and nothing else.
        places: Of files from elsewhere.

    Raises:
        UserError: a file cannot be read or written, two of them have the same place, or links lead
            in a circle.
    """
    mended = {path for path in draft.rglob("*") if path.is_file()}
    pairs = [(file, draft / file.relative_to(folder)) for file in _files(folder)]
    for source, place in places.items():
        if source.is_dir():
            pairs += [(f, draft / place / f.relative_to(source)) for f in _files(source)]
        else:
            beside = [file for file in companions(source) if file.is_relative_to(source.parent)]
            parent = (draft / place).parent
            pairs += [
                (file, parent / file.relative_to(source.parent)) for file in (source, *beside)
            ]
    if places:
        to = Path(next(iter(places.values()))).parts[0]
        log.info("%d files from outside of the data set go to %s/", len(places), to)
    for source, target in progress(pairs, "copy", total=len(pairs)):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target not in mended:
            _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    """Copy the content alone: what may not be changed in the original may be in the copy."""
    if target.exists():
        what = f"another file has its place in the copy: {target.name}"
        raise UserError(what, where=source, fix="rename one of the two")
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        what = f"cannot copy the file: {error.strerror or error}"
        raise UserError(what, where=source, fix="check the file and the free space") from None


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            yield path
        elif folder.resolve().is_relative_to(path.resolve()):
            fix = "remove the link"
            raise UserError("the link leads to a folder around it", where=path, fix=fix)
        else:
            yield from _files(path)
