"""All problems of the label part of a dataset.json: values, regions, ignore."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from segkit.dataset.problems import Problem, problem

LARGEST_VALUE = 2**31 - 1
_ORDER = "regions_class_order"


def is_int(value: Any) -> bool:
    """Whether a JSON value is an integer (true and 1.0 are not)."""
    return type(value) is int


def is_inverted(labels: Mapping[str, Any]) -> bool:
    """Whether labels is written ``{"0": "background", ...}``, as nnU-Net v1 did."""
    return bool(labels) and all(
        re.fullmatch(r"-?[0-9]+", name) is not None and isinstance(value, str)
        for name, value in labels.items()
    )


def turned_round(labels: Mapping[str, str]) -> dict[str, int]:
    """Turn inverted labels into name -> value."""
    return {name: int(value) for value, name in labels.items()}


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
        return [
            problem("SK-D020", f"expected names and values, got {labels!r}", where=where, fix=fix)
        ]
    found = []
    if is_inverted(labels):
        labels = turned_round(labels)
        fix = f'write "labels": {json.dumps(labels, ensure_ascii=False)}'
        what = "labels maps values to names; expected names to values"
        found.append(problem("SK-D023", what, where=where, fix=fix))
    entries = {n: v for n, v in labels.items() if n not in ("background", "ignore")}
    if not entries:
        what = "labels declares nothing besides background and ignore"
        fix = 'declare the classes to segment, such as "liver": 1'
        found.append(problem("SK-D020", what, where=where, fix=fix))
    found += _check_background(labels, where)
    for name, value in entries.items():
        found += _check_entry(name, value, where)
    found += _check_duplicates(entries, where)
    found += _check_ignore(labels, content, source)
    return found + _check_regions(entries, content, f"{source}, key {_ORDER}")


def declared_values(labels: Mapping[str, Any]) -> set[int]:
    """Class values that labels declares: by themselves or as members of regions."""
    lists = (v if isinstance(v, list) else [v] for n, v in labels.items() if n != "ignore")
    return {value for members in lists for value in members if is_int(value) and value > 0}


def _check_background(labels: Mapping[str, Any], where: str) -> list[Problem]:
    if "background" not in labels:
        fix = 'add "background": 0 as the first entry'
        if holder := next((n for n, v in labels.items() if is_int(v) and v == 0), None):
            fix = f'rename the label {holder!r}, which is 0, to "background"'
        return [problem("SK-D021", "background is not declared", where=where, fix=fix)]
    value = labels["background"]
    if is_int(value) and value == 0:
        return []
    fix = 'write "background": 0; the label files must hold 0 where nothing is segmented'
    return [problem("SK-D022", f"background is {value!r}", where=where, fix=fix)]


def _check_entry(name: str, value: Any, where: str) -> list[Problem]:
    if isinstance(value, list):
        return _check_members(name, value, where)
    if not is_int(value):
        what, fix = f"the value of {name!r} is {value!r}", "write an integer above 0"
        if isinstance(value, (str, float)) and _integral(value):
            fix = f'write "{name}": {int(float(value))}'
        return [problem("SK-D024", what, where=where, fix=fix)]
    what = f"the value of {name!r} is {value}"
    if value < 0:
        fix = "use values above 0; voxels nobody annotated are declared with ignore_label"
        return [problem("SK-D025", what, where=where, fix=fix)]
    if value == 0:
        fix = "0 belongs to background; give the class a value of its own, also in the files"
        return [problem("SK-D027", what, where=where, fix=fix)]
    if value > LARGEST_VALUE:
        return [problem("SK-D027", what, where=where, fix=f"use values up to {LARGEST_VALUE}")]
    return []


def _integral(value: str | float) -> bool:
    try:
        return float(value).is_integer()
    except ValueError:
        return False


def _check_members(name: str, members: list[Any], where: str) -> list[Problem]:
    bad = [m for m in members if not is_int(m) or not 0 < m <= LARGEST_VALUE]
    if members and not bad and len(set(members)) == len(members):
        return []
    what = f"the region {name!r} is {members!r}"
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
            what = f"{owner!r} and {name!r} are both {value}"
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
    taken = {0, *declared_values(labels)}
    found = []
    for where, values in given:
        for value in values:
            if not is_int(value):
                fix = "write one integer (under ignore_label also a list of integers)"
                what = f"the ignore label is {value!r}"
                found.append(problem("SK-D028", what, where=where, fix=fix))
            elif abs(value) > LARGEST_VALUE:
                fix = f"use a value between {-LARGEST_VALUE} and {LARGEST_VALUE}"
                what = f"the ignore label is {value}"
                found.append(problem("SK-D028", what, where=where, fix=fix))
            elif value in taken:
                what = f"the ignore label {value} is also {_owner(labels, value)}"
                fix = f"use another value, such as {max(taken) + 1}, in the files too"
                found.append(problem("SK-D028", what, where=where, fix=fix))
    return found


def _owner(labels: Mapping[str, Any], value: int) -> str:
    for name, entry in labels.items():
        if name != "ignore" and value in (entry if isinstance(entry, list) else [entry]):
            return f"a value of {name!r}"
    return "the background"


def _check_regions(
    entries: Mapping[str, Any], content: Mapping[str, Any], where: str
) -> list[Problem]:
    has_regions = any(isinstance(v, list) and len(v) > 1 for v in entries.values())
    if not has_regions:
        if _ORDER not in content:
            return []
        what = "no label is a list of several classes"
        return [problem("SK-D034", what, where=where, fix="delete regions_class_order")]
    example = [v[0] if isinstance(v, list) and v else v for v in entries.values()]
    fix = f"write one value a region, in the order of labels, later ones painted over earlier \
ones, such as {json.dumps(example)}"
    if _ORDER not in content:
        what = "labels has regions; which value each is written with is missing"
        return [problem("SK-D030", what, where=where, fix=fix)]
    order = content[_ORDER]
    if not isinstance(order, list) or len(order) != len(entries):
        what = f"expected a list of {len(entries)} values ({', '.join(entries)}), got {order!r}"
        return [problem("SK-D031", what, where=where, fix=fix)]
    declared = declared_values(entries)
    if wrong := [value for value in order if not is_int(value) or value not in declared]:
        what = f"{wrong[0]!r} is not among the declared values {sorted(declared)}"
        return [problem("SK-D032", what, where=where, fix=fix)]
    regions = {name: v if isinstance(v, list) else [v] for name, v in entries.items()}
    well_formed = all(is_int(value) for members in regions.values() for value in members)
    return _check_painting(regions, order, where) if well_formed else []


def _check_painting(
    regions: Mapping[str, list[int]], order: list[int], where: str
) -> list[Problem]:
    """Check that painting the regions one over the other lets each of them be seen again."""
    found = []
    for (name, members), paint in zip(regions.items(), order, strict=True):
        if paint not in members:
            what = f"the region {name!r} is written as {paint}, which is not one of its classes"
            fix = f"write it as one of {sorted(members)}, best as one that no region inside it has"
            found.append(problem("SK-D036", what, where=where, fix=fix))
    nested = sorted(regions, key=lambda name: -len(regions[name]))
    paints = dict(zip(regions, order, strict=True))
    fix = f"declare the regions in the order {', '.join(nested)}, from the outermost in, and write \
regions_class_order {[paints[name] for name in nested]}"
    for inner, outer in combinations(regions, 2):
        if set(regions[inner]) < set(regions[outer]):
            what = f"{outer!r} is painted after {inner!r}, which lies inside it, and hides it"
            found.append(problem("SK-D035", what, where=where, fix=fix))
    return found
