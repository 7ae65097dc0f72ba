"""All problems of the label part of a dataset.json: names, values, background, ignore."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import count
from typing import Any

from segkit.dataset.case_names import same_name
from segkit.dataset.checks.regions import check_regions, declared_values
from segkit.dataset.checks.structures import LARGEST_BIT, check_structures
from segkit.dataset.labels import SPECIAL_NAMES, class_entries, is_multilabel
from segkit.dataset.problems import Problem, problem
from segkit.json_text import is_int, shown

LARGEST_VALUE = 2**31 - 1
MOST_CLASSES = 2**15 - 2
"""Classes whose indices, and the index of ignored voxels, fit int16."""


def is_inverted(labels: Mapping[str, Any]) -> bool:
    """Whether labels is written ``{"0": "background", ...}``, as nnU-Net v1 did, or in part."""
    return bool(labels) and (
        _maps_values(labels) or any(_is_reversed(name, value) for name, value in labels.items())
    )


def turned_round(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Turn inverted labels into name -> value; the same where names would then collide."""
    every = _maps_values(labels)
    pairs = [
        (value, int(name)) if every or _is_reversed(name, value) else (name, value)
        for name, value in labels.items()
    ]
    turned = dict(pairs)
    return turned if len(turned) == len(pairs) else dict(labels)


def _maps_values(labels: Mapping[str, Any]) -> bool:
    return all(_is_number(name) and isinstance(value, str) for name, value in labels.items())


def _is_number(name: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,18}", name) is not None


def _is_reversed(name: str, value: Any) -> bool:
    return _is_number(name) and isinstance(value, str) and not _is_number(value)


def check_labels(content: Mapping[str, Any], source: object) -> list[Problem]:
    """Return all problems of labels, regions_class_order and ignore_label.

    Args:
        content: The parsed dataset.json; it has a key ``labels``.
        source: Where it comes from, for the messages.
    """
    labels = content["labels"]
    where = f"{source}, key labels"
    if not isinstance(labels, Mapping) or not labels:
        fix = 'write {"background": 0, "NAME": 1, ...}'
        what = f"expected names and values, got {shown(labels)}"
        return [problem("SK-D020", what, where=where, fix=fix)]
    found = []
    if is_inverted(labels):
        labels = turned_round(labels)
        what = "labels maps values to names; expected names to values"
        if is_inverted(labels):
            fix = 'write "NAME": value, with a name of its own for every class'
            what += " (and two values share a name)"
            return [problem("SK-D023", what, where=where, fix=fix)]
        fix = f'write "labels": {shown(labels, 2000)}'
        found.append(problem("SK-D023", what, where=where, fix=fix))
    entries = class_entries(labels)
    found += _check_number(entries, where)
    found += _check_background(labels, where)
    found += _check_names(labels, where)
    limit = LARGEST_BIT if is_multilabel(content) else LARGEST_VALUE
    for name, value in entries.items():
        # A class that holds the place of the missing background is told with that.
        if "background" in labels or not (is_int(value) and value == 0):
            found += _check_entry(name, value, limit, where)
    found += _check_duplicates(entries, where)
    found += _check_ignore(labels, content, source)
    check_values = check_structures if is_multilabel(content) else check_regions
    return found + check_values(entries, content, source)


def _check_number(entries: Mapping[str, Any], where: str) -> list[Problem]:
    if not entries:
        what = "labels declares nothing besides background and ignore"
        fix = 'declare the classes to segment, such as "liver": 1'
        return [problem("SK-D020", what, where=where, fix=fix)]
    if (number := len(declared_values(entries))) > MOST_CLASSES:
        fix = f"merge classes; up to {MOST_CLASSES} can be told apart"
        return [problem("SK-D041", f"{number} classes are declared", where=where, fix=fix)]
    return []


def _check_background(labels: Mapping[str, Any], where: str) -> list[Problem]:
    if "background" not in labels:
        fix = 'add "background": 0 as the first entry'
        alike = (name for name in labels if name.strip().lower() == "background")
        zero = (name for name, value in labels.items() if is_int(value) and value == 0)
        if holder := next(alike, next(zero, None)):
            fix = f'write "background": 0 in place of {shown(holder)}: {shown(labels[holder])}'
        return [problem("SK-D021", "background is not declared", where=where, fix=fix)]
    value = labels["background"]
    if is_int(value) and value == 0:
        return []
    what, fix = f"background is {shown(value)}", 'write "background": 0'
    if isinstance(value, list):
        what += ", a list; it is the single value 0 and no region"
        return [problem("SK-D029", what, where=where, fix=fix)]
    if not is_int(value):
        what += ", which is " + ("text" if isinstance(value, str) else "no integer")
        return [problem("SK-D037", what, where=where, fix=fix)]
    fix += "; the label files must hold 0 where nothing is segmented"
    return [problem("SK-D022", what, where=where, fix=fix)]


def _check_names(labels: Mapping[str, Any], where: str) -> list[Problem]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in labels:
        groups[same_name(" ".join(name.split()))].append(name)
    # "Background": 0 without "background" is told with the background.
    reserved = [name for name in SPECIAL_NAMES if name != "background" or name in labels]
    found = []
    for key, names in groups.items():
        if not key:
            what, fix = f"a label is called {shown(names[0])}", "give every class a name"
            found.append(problem("SK-D042", what, where=where, fix=fix))
        elif key in reserved and (others := [name for name in names if name != key]):
            what = f"{shown(others[0])} is an ordinary class; only {key!r} has a meaning of its own"
            fix = f"write {key!r} if that is meant, else another name"
            found.append(problem("SK-D043", what, where=where, fix=fix))
        elif len(names) > 1:
            what = f"{' and '.join(map(shown, names))} differ only in capitals or spaces"
            fix = "give the classes names that cannot be mistaken for each other"
            found.append(problem("SK-D043", what, where=where, fix=fix))
    return found


def _check_entry(name: str, value: Any, limit: int, where: str) -> list[Problem]:
    if isinstance(value, list):
        return _check_members(name, value, where)
    what = f"the value of {shown(name)} is {shown(value)}"
    if not is_int(value):
        fix = "write an integer above 0"
        if isinstance(value, (str, float)) and (whole := _integral(value)) is not None:
            fix = f"write {shown(name)}: {whole}"
        return [problem("SK-D024", what, where=where, fix=fix)]
    if value < 0:
        fix = "use values above 0; voxels nobody annotated are declared with ignore_label"
        return [problem("SK-D025", what, where=where, fix=fix)]
    if value == 0:
        fix = "0 belongs to background; give the class a value of its own, also in the files"
        return [problem("SK-D027", what, where=where, fix=fix)]
    if value > limit:
        return [problem("SK-D027", what, where=where, fix=f"use values up to {limit}")]
    return []


def _integral(value: str | float) -> int | None:
    text = str(value).strip()
    return int(text.split(".")[0]) if re.fullmatch(r"[+-]?[0-9]{1,18}(\.0*)?", text) else None


def _check_members(name: str, members: list[Any], where: str) -> list[Problem]:
    bad = [m for m in members if not is_int(m) or not 0 < m <= LARGEST_VALUE]
    if members and not bad and len(set(members)) == len(members):
        return []
    what = f"the region {shown(name)} is {shown(members)}"
    fix = "list the values of its classes: integers above 0, each once"
    return [problem("SK-D033", what, where=where, fix=fix)]


def _check_duplicates(entries: Mapping[str, Any], where: str) -> list[Problem]:
    owners: dict[frozenset[int], str] = {}
    found = []
    for name, value in entries.items():
        members = value if isinstance(value, list) else [value]
        if not members or not all(map(is_int, members)):
            continue
        owner = owners.setdefault(frozenset(members), name)
        if owner != name:
            what = f"{shown(owner)} and {shown(name)} are both {shown(value)}"
            fix = "give each class a value of its own, or delete one of the two"
            found.append(problem("SK-D026", what, where=where, fix=fix))
    return found


def _check_ignore(
    labels: Mapping[str, Any], content: Mapping[str, Any], source: object
) -> list[Problem]:
    given = [(f"{source}, key labels.ignore", [labels["ignore"]])] if "ignore" in labels else []
    if "ignore_label" in content:
        value = content["ignore_label"]
        values = value if isinstance(value, list) else [value]
        given.append((f"{source}, key ignore_label", values))
    return [
        problem("SK-D028", f"the ignore label {shown(value)} is {reason}", where=where, fix=fix)
        for where, values in given
        for value in values
        for reason, fix in _reasons_against(value, labels, content)
    ]


def _reasons_against(
    value: Any, labels: Mapping[str, Any], content: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Say what is wrong with an ignore value, and what to write; nothing where it is fine."""
    if not is_int(value):
        fix = "write one integer (under ignore_label also a list of integers)"
        return [("no integer", fix)]
    if abs(value) > LARGEST_VALUE:
        return [("out of range", f"use a value between {-LARGEST_VALUE} and {LARGEST_VALUE}")]
    entries, overlapping = class_entries(labels), is_multilabel(content)
    # Whether it is a bitmask, too, is told with the files: there may be masks instead.
    taken = declared_values(entries) | ({0, 1} if overlapping else {0})
    if value in taken:
        free = -1 if overlapping else next(v for v in count(1) if v not in taken)
        fix = f"use another value, such as {free}, in the files too"
        return [(f"also {_owner(entries, value)}", fix)]
    return []


def _owner(entries: Mapping[str, Any], value: int) -> str:
    for name, entry in entries.items():
        if value in (entry if isinstance(entry, list) else [entry]):
            return f"a value of {shown(name)}"
    return "the background" if value == 0 else "what a mask holds where its structure is"
