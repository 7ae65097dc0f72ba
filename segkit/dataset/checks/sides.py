"""All problems of what dataset.json says of left and right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from segkit.dataset.image_io import PLANES
from segkit.dataset.labels import LabelSchema
from segkit.dataset.problems import Problem, problem
from segkit.dataset.sides import (
    AXIS_KEY,
    FILE_AXES,
    PAIRS_KEY,
    regions_without_mirror_image,
    suspected_pairs,
)
from segkit.errors import nearest
from segkit.json_text import shown

_EXAMPLE = f'write "{PAIRS_KEY}": [["left kidney", "right kidney"], ...]'


def check_sides(
    content: Mapping[str, Any], schema: LabelSchema | None, source: object
) -> list[Problem]:
    """Return all problems of mirror_pairs and left_right_axis.

    Args:
        content: The parsed dataset.json.
        schema: Its labels; None where they are not understood, and names left unchecked.
        source: Where it comes from, for the messages.
    """
    found = _check_axis(content, f"{source}, key {AXIS_KEY}")
    pairs = content.get(PAIRS_KEY)
    if pairs is None:
        return found
    where = f"{source}, key {PAIRS_KEY}"
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        what = f"expected pairs of names, got {shown(pairs)}"
        return [*found, problem("SK-D050", what, where=where, fix=_EXAMPLE)]
    broken = _check_twice(pairs, where)
    broken += [] if schema is None else _check_names(pairs, schema, where)
    if not broken and schema is not None:
        broken += _check_regions(pairs, schema, where)
    return found + broken + _check_known_axis(content, where)


def propose_pairs(content: Mapping[str, Any], schema: LabelSchema, source: object) -> list[Problem]:
    """Tell labels that look like left and right where nothing is said of them."""
    pairs = [] if content.get(PAIRS_KEY) is not None else suspected_pairs(schema)
    if not pairs:
        return []
    first, second = pairs[0]
    others = f", as do {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
    what = f"{shown(first)} and {shown(second)} look like left and right{others}; training does \
not mirror along that axis"
    fix = f'add {line_to_paste(pairs)} to mirror and let them change places, or "{PAIRS_KEY}": [] \
if they are no mirror images, or to mirror regardless'
    return [problem("SK-D056", what, where=f"{source}, key labels", fix=fix)]


def line_to_paste(pairs: Any) -> str:
    """Write pairs as they stand in a dataset.json."""
    return f'"{PAIRS_KEY}": {shown([list(pair) for pair in pairs], 10_000)}'


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(n, str) for n in pair)


def _check_axis(content: Mapping[str, Any], where: str) -> list[Problem]:
    axis = content.get(AXIS_KEY)
    if axis is None or axis in FILE_AXES:
        return []
    fix = 'write "x" (columns), "y" (rows) or "z" (slices), as the files have their axes'
    what = f"{AXIS_KEY} is {shown(axis)}"
    return [problem("SK-D055", what, where=where, fix=fix)]


def _check_twice(pairs: list[list[str]], where: str) -> list[Problem]:
    found = []
    for name in (first for first, second in pairs if first == second):
        what = f"{shown(name)} is its own mirror image"
        fix = "leave the pair out: labels that are in no pair stay what they are"
        found.append(problem("SK-D052", what, where=where, fix=fix))
    counts = Counter(name for pair in pairs for name in set(pair))
    for name, count in counts.items():
        if count > 1:
            what = f"{shown(name)} is in {count} pairs"
            fix = "leave it in one of them"
            found.append(problem("SK-D052", what, where=where, fix=fix))
    return found


def _check_names(pairs: list[list[str]], schema: LabelSchema, where: str) -> list[Problem]:
    names = [one.name for one in schema.classes]
    regions = {region.name: region for region in schema.regions}
    found = []
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        if name in names:
            continue
        if name in regions:
            values = shown(sorted(regions[name].members))
            what = f"{shown(name)} is a region, the classes {values}"
            own = ", ".join(names)
            fix = f"pair the classes ({own}); regions follow them"
            found.append(problem("SK-D053", what, where=where, fix=fix))
        else:
            what = f"no label is called {shown(name)}"
            found.append(problem("SK-D051", what, where=where, fix=nearest(name, names)))
    return found


def _check_regions(pairs: list[list[str]], schema: LabelSchema, where: str) -> list[Problem]:
    given = [(first, second) for first, second in pairs]
    return [
        problem(
            "SK-D054",
            f"when the pairs change places, the region {shown(name)} becomes none of the regions",
            where=where,
            fix="pair the other classes of the region too, or declare the region it becomes",
        )
        for name in regions_without_mirror_image(schema, given)
    ]


def _check_known_axis(content: Mapping[str, Any], where: str) -> list[Problem]:
    """Pictures do not say where left is."""
    if not content[PAIRS_KEY] or content.get(AXIS_KEY) is not None:
        return []
    ending = str(content.get("file_ending"))
    if ending.lower() not in PLANES:
        return []
    what = f"{ending} files do not say which axis runs between left and right"
    fix = f'add "{AXIS_KEY}": "x" where left and right are on the sides of the picture, else "y"'
    return [problem("SK-D057", what, where=where, fix=fix)]
