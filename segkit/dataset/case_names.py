"""Case names: they become file names, so some break files, shells or other systems."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import partial

from segkit.dataset.problems import Problem, problem

RESERVED_ENDINGS = ("_seg", "_locations")
"""What the names of a preprocessed case's files add to its own: ``a`` has a file ``a_seg``."""
LONGEST_NAME = 200
"""Bytes in UTF-8; file systems allow 255, and endings and temporary names come on top."""

_BREAKS_ELSEWHERE = re.compile(r'^-|[\\:*?"<>|\x01-\x1f\x7f]|[ .]$')
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_DOUBLED = re.compile(r"(?P<case>.+)_0000")


def check_names(names: Collection[str], where: object) -> list[Problem]:
    """Return all problems of the names of a data set's cases.

    Args:
        names: Of all cases, each once.
        where: The folder (or key) they come from.
    """
    unusable = [found for name in names for found in _check_usable(name, where)]
    usable = filter(is_usable, names)
    portable = [found for name in usable for found in _check_portable(name, where)]
    together = (_check_alike, _check_doubled_number, _check_overwriting)
    return [*unusable, *portable, *(found for check in together for found in check(names, where))]


def is_usable(name: str) -> bool:
    """Whether files can be named after a case at all."""
    return _reason_against(name) is None


def same_name(name: str) -> str:
    """Return what two names share that differ only in case or in how accents are stored."""
    return unicodedata.normalize("NFC", name).casefold()


def _reason_against(name: str) -> str | None:
    if not name:
        return "it is empty"
    if name.startswith("."):
        return "files whose name begins with a dot are hidden and never read"
    if "/" in name or "\0" in name:
        return "it would lead into another folder" if "/" in name else "it holds a NUL character"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it is not valid UTF-8"
    too_long = size > LONGEST_NAME
    return f"it has {size} bytes; up to {LONGEST_NAME} can be used" if too_long else None


def _check_usable(name: str, where: object) -> list[Problem]:
    reason = _reason_against(name)
    if reason is None:
        return []
    what = f"the case name {name!r} cannot be used: {reason}"
    return [problem("SK-F015", what, where=where, fix=_rename(name), case=name)]


def _check_portable(name: str, where: object) -> list[Problem]:
    told = partial(problem, "SK-F016", where=where, fix=_rename(name), case=name)
    if name.startswith("-"):
        return [told(f"shells and programs take the case name {name!r} for an option")]
    if match := _BREAKS_ELSEWHERE.search(name):
        place = "ends with" if match[0] in " ." else "holds"
        what = f"the case name {name!r} {place} {match[0]!r}, which file systems elsewhere refuse"
        return [told(what)]
    if _WINDOWS_DEVICE.fullmatch(name):
        return [told(f"Windows keeps the case name {name!r} for a device")]
    return []


def _rename(name: str) -> str:
    """Propose a name without what breaks."""
    plain = re.sub(r'[/\\:*?"<>|\x00-\x1f\x7f]', "_", name.encode("utf-8", "replace").decode())
    plain = plain.strip(" .-").encode()[:LONGEST_NAME].decode(errors="ignore")
    plain = f"{plain}_case" if _WINDOWS_DEVICE.fullmatch(plain) else plain
    return f"rename all files of the case, for example to {plain or 'case_1'}"


def _check_alike(names: Iterable[str], where: object) -> list[Problem]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[same_name(name)].append(name)
    fix = "rename all but one; on Windows and macOS their files are the same file"
    return [
        problem(
            "SK-F017",
            f"{' and '.join(map(repr, sorted(alike)))} differ only in how letters are written",
            where=where,
            fix=fix,
            case=sorted(alike)[0],
        )
        for alike in groups.values()
        if len(alike) > 1
    ]


def _check_doubled_number(names: Collection[str], where: object) -> list[Problem]:
    """Tell ``CASE_0000_0000``, unless cases are numbered (``CASE_0000``, ``CASE_0001``, ...)."""
    matches = (re.fullmatch(r"(.+)_(?!0000)\d{4}", name) for name in names)
    numbered = {match[1] for match in matches if match}
    found = []
    for name in names:
        match = _DOUBLED.fullmatch(name)
        if match and match["case"] not in numbered:
            what = f"the channel number stands twice in {name}_0000, so the case is called {name!r}"
            fix = f"rename {name}_0000 to {name} and the label file to {match['case']}, or keep it"
            found.append(problem("SK-F018", what, where=where, fix=fix, case=name))
    return found


def _check_overwriting(names: Collection[str], where: object) -> list[Problem]:
    """Tell ``a_seg`` beside ``a``: the preprocessed labels of a would be the image of a_seg."""
    known = set(names)
    return [
        problem(
            "SK-F019",
            f"the case {name + ending!r} would overwrite the preprocessed files of {name!r}",
            where=where,
            fix=f"rename one of the two; avoid names that end with {' or '.join(RESERVED_ENDINGS)}",
            case=name + ending,
        )
        for name in sorted(known)
        for ending in RESERVED_ENDINGS
        if name + ending in known
    ]
