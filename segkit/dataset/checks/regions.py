"""All problems of regions: their classes, and the values they are written with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from segkit.dataset.problems import Problem, problem
from segkit.json_text import is_int, shown

_ORDER = "regions_class_order"


def declared_values(entries: Mapping[str, Any]) -> set[int]:
    """Class values that labels declares: by themselves or as members of regions.

    Args:
        entries: Labels without background and ignore.
    """
    lists = (value if isinstance(value, list) else [value] for value in entries.values())
    return {value for members in lists for value in members if is_int(value) and value > 0}


def check_regions(
    entries: Mapping[str, Any], content: Mapping[str, Any], source: object
) -> list[Problem]:
    """Return all problems of regions and regions_class_order.

    Args:
        entries: Labels without background and ignore.
        content: The parsed dataset.json.
        source: Where it comes from, for the messages.
    """
    where = f"{source}, key {_ORDER}"
    if not any(isinstance(v, list) and len(v) > 1 for v in entries.values()):
        if _ORDER not in content:
            return []
        what = "no label is a list of several classes"
        return [problem("SK-D034", what, where=where, fix="delete regions_class_order")]
    regions = {name: v if isinstance(v, list) else [v] for name, v in entries.items()}
    if not all(is_int(value) for members in regions.values() for value in members):
        return []  # told with the members
    paints = {name: _best_paint(name, regions) for name in regions}
    if _ORDER not in content:
        what = "labels has regions; which value each is written with is missing"
        return [problem("SK-D030", what, where=where, fix=_right_order(regions, paints))]
    order = content[_ORDER]
    if not isinstance(order, list) or len(order) != len(entries):
        got = f"{len(order)}: " if isinstance(order, list) else ""
        names = ", ".join(map(shown, entries))
        what = f"expected a list of {len(entries)} values, one for each of {names}; "
        what += f"got {got}{shown(order)}"
        return [problem("SK-D031", what, where=where, fix=_right_order(regions, paints))]
    declared = declared_values(entries)
    if wrong := [value for value in order if not is_int(value) or value not in declared]:
        what = f"{shown(wrong[0])} is not among the declared values {shown(sorted(declared))}"
        return [problem("SK-D032", what, where=where, fix=_right_order(regions, paints))]
    given = dict(zip(regions, order, strict=True))
    return [*_check_painting(regions, given, where), *_check_unknown(regions, given, source)]


def _check_painting(
    regions: Mapping[str, list[int]], paints: Mapping[str, int], where: str
) -> list[Problem]:
    """Check that painting the regions one over the other lets each of them be seen again."""
    found = []
    mistaken = {name: _mistaken_for(name, paint, regions) for name, paint in paints.items()}
    mended = {n: _best_paint(n, regions) if mistaken[n] else paints[n] for n in regions}
    for name, reason in mistaken.items():
        if reason is not None:
            code = "SK-D036" if paints[name] not in regions[name] else "SK-D049"
            what = f"the region {shown(name)} is written as {paints[name]}, {reason}"
            fix = f"write it as {mended[name]}: {_right_order(regions, mended)}"
            found.append(problem(code, what, where=where, fix=fix))
    for inner, outer in combinations(regions, 2):
        if inner in _inside(outer, regions):
            what = f"{shown(outer)} is painted after {shown(inner)}, which lies inside it, "
            what += "and hides it"
            fix = _right_order(regions, mended)
            found.append(problem("SK-D035", what, where=where, fix=fix))
    return found


def _mistaken_for(name: str, paint: int, regions: Mapping[str, list[int]]) -> str | None:
    """Say why a region cannot be told from what it is written as."""
    if paint not in regions[name]:
        return "which is not one of its classes"
    inner = _inside_with(paint, name, regions)
    # Where the parts make up the whole, one of their values is all there is.
    if inner is None or _inside_with(_best_paint(name, regions), name, regions):
        return None
    return f"which means {shown(inner)}; what is outside of that is taken for it"


def _check_unknown(
    regions: Mapping[str, list[int]], paints: Mapping[str, int], source: object
) -> list[Problem]:
    """Tell a member that looks mistyped: in one region only, never written, and the odd one out.

    That most classes of a region carry no name of their own is normal; that one of them does
    not where all others do is no error either, but worth a look.
    """
    uses = Counter(value for members in regions.values() for value in members)
    named = {members[0] for members in regions.values() if len(members) == 1}
    found = []
    for name, members in regions.items():
        odd = [v for v in members if v not in named and v not in paints.values() and uses[v] == 1]
        if len(odd) == 1 and len(named & set(members)) >= 2:
            what = f"no other label knows {odd[0]} of the region {shown(name)}, nor is it written"
            fix = f'correct the number, or declare the class: "NAME": {odd[0]}'
            where = f"{source}, key labels"
            found.append(problem("SK-D038", what, where=where, fix=fix))
    return found


def _inside(outer: str, regions: Mapping[str, list[int]]) -> list[str]:
    """Names of the regions that lie inside another one and are smaller."""
    members = set(regions[outer])
    return [name for name, inner in regions.items() if set(inner) < members]


def _inside_with(value: int, outer: str, regions: Mapping[str, list[int]]) -> str | None:
    """Return the first region inside another one that holds a value."""
    return next((name for name in _inside(outer, regions) if value in regions[name]), None)


def _best_paint(name: str, regions: Mapping[str, list[int]]) -> int:
    """Return a class of a region that no region inside it has; the first where they have all."""
    inner = {value for other in _inside(name, regions) for value in regions[other]}
    return next((v for v in regions[name] if v not in inner), next(iter(regions[name]), 0))


def _right_order(regions: Mapping[str, list[int]], paints: Mapping[str, int]) -> str:
    """Say which regions_class_order to write, and in which order to declare the regions."""
    nested = sorted(regions, key=lambda name: -len(regions[name]))
    hidden = any(inner in _inside(outer, regions) for inner, outer in combinations(regions, 2))
    names = nested if hidden else list(regions)
    written = f'write "regions_class_order": {shown([paints[name] for name in names], 1000)}'
    if not hidden:
        return written
    return f"declare the regions in the order {', '.join(names)}, from the outermost in, and \
{written}"
