"""Mends of a dataset.json that have only one possible meaning, one after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from segkit.dataset.checks.content import OPTIONAL, REQUIRED, check_content, from_v1, is_v1
from segkit.dataset.checks.labels import turned_round
from segkit.dataset.image_io import KNOWN_ENDINGS
from segkit.dataset.labels import class_entries, is_multilabel
from segkit.dataset.problems import Problem
from segkit.json_text import is_int

Content = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Mend:
    """One problem, and what was done about it or why nothing was."""

    code: str
    where: str
    """File (and key), relative to the data set's folder."""
    message: str
    case: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the public form."""
        return {
            "code": self.code,
            "where": self.where,
            "case": self.case,
            "message": self.message,
        }


def mend_content(content: Mapping[str, Any], file: Path) -> tuple[Content, list[Mend]]:
    """Repair what a dataset.json says in a way that can be understood in one way only.

    A repair counts where the checks confirm that a problem is gone; what it brings to light is
    left to them.

    Args:
        content: The parsed JSON.
        file: Where it was read from.

    Returns:
        The content, repaired, and a line for every problem that is gone.
    """
    mended, lines = dict(content), []
    for repair in _REPAIRS:
        while gone := _gone(mended, candidate := repair(mended), file):
            lines += [json_mend(found, changes(mended, candidate), file) for found in gone]
            mended = candidate
    return mended, lines


def json_mend(found: Problem, done: str, file: Path) -> Mend:
    """Describe the mend of a problem of the JSON ``file``."""
    key = found.where.removeprefix(str(file))
    where = f"{file.name}{key}" if key != found.where else file.name
    return Mend(code=found.code, where=where, message=f"{found.message}; {done}")


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Say which keys were added, changed or deleted, and the values they have now."""
    return ", ".join(_changes(before, after))


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    other = [key for key in after if key not in before or _text(before[key]) != _text(after[key])]
    news = [line for key in other for line in _news(key, before.get(key), after[key])]
    return [*news, *(f"{key} is deleted" for key in before if key not in after)]


def _news(key: str, old: Any, value: Any) -> list[str]:
    """Say what a key holds now; of names and values, those that changed."""
    if isinstance(old, Mapping) and isinstance(value, Mapping) and old.keys() & value.keys():
        inside = [f"{key}: {line}" for line in _changes(old, value)]
        return inside or [f"{key} is in another order now"]
    return [f"{key} is now {_text(value)}"]


def equal_duplicates(file: Path) -> bool:
    """Whether keys that occur twice in a JSON file say the same both times."""
    equal = True

    def collect(pairs: list[tuple[str, Any]]) -> Content:
        nonlocal equal
        last = dict(pairs)
        equal = equal and all(_text(value) == _text(last[key]) for key, value in pairs)
        return last

    json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=collect)
    return equal


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _gone(before: Content, after: Content, file: Path) -> list[Problem]:
    # Most repairs change nothing; checking twice would tell the same.
    if _text(before) == _text(after):
        return []
    left = {(found.code, found.where, found.message) for found in check_content(after, file)}
    problems = check_content(before, file)
    return [found for found in problems if (found.code, found.where, found.message) not in left]


def _rename_keys(content: Content) -> Content:
    """Give a known key its name where only capitals, hyphens or underscores differ."""
    known = {_bare(key): key for key in (*REQUIRED, *OPTIONAL)}
    for key in content:
        name = known.get(_bare(key), key)
        if name != key and name not in content:
            return {(name if k == key else k): value for k, value in content.items()}
    return content


def _bare(key: str) -> str:
    return re.sub(r"[-_ ]", "", key).lower()


def _modernize(content: Content) -> Content:
    """Write what nnU-Net v1 wrote as v2 does."""
    return from_v1(content) if is_v1(content) else content


def _turn_labels(content: Content) -> Content:
    """Write labels from names to values."""
    labels = content.get("labels")
    return {**content, "labels": turned_round(labels)} if isinstance(labels, Mapping) else content


def _add_dot(content: Content) -> Content:
    """Begin the file ending with a dot."""
    ending = content.get("file_ending")
    known = isinstance(ending, str) and f".{ending}".lower() in KNOWN_ENDINGS
    return {**content, "file_ending": f".{ending}"} if known else content


def _number_channels(content: Content) -> Content:
    """Number the channels of a list of names from 0, as the files are."""
    names = content.get("channel_names")
    if not isinstance(names, list):
        return content
    return {**content, "channel_names": {str(i): name for i, name in enumerate(names)}}


def _write_integers(content: Content) -> Content:
    """Write the first integer that is a string or a decimal number as an integer."""
    labels = content.get("labels")
    entries = labels if isinstance(labels, dict) else {}
    for name, value in entries.items():
        if _text(whole := _integers(value)) != _text(value):
            return {**content, "labels": {**entries, name: whole}}
    for key in ("ignore_label", "regions_class_order"):
        if key in content and _text(whole := _integers(content[key])) != _text(content[key]):
            return {**content, key: whole}
    return content


def _integers(value: Any) -> Any:
    """Turn ``"1"`` and ``1.0`` into 1, also inside a list; everything else stays."""
    if isinstance(value, list):
        return [_integers(entry) for entry in value]
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,12}(\.0*)?\s*", value):
        return int(value.split(".")[0])
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _declare_background(content: Content) -> Content:
    """Write ``"background": 0`` where it is spelt otherwise, or missing while 0 is free."""
    labels = content.get("labels")
    if not isinstance(labels, Mapping) or not labels:
        return content
    named = [name for name in labels if name.strip().lower() == "background"]
    values = [value for name in named for value in _listed(labels[name])]
    rest = {name: value for name, value in labels.items() if name not in named}
    taken = [v for value in (*rest.values(), content.get("ignore_label")) for v in _listed(value)]
    certain = _text(values) == "[0]" if named else 0 not in taken
    return {**content, "labels": {"background": 0, **rest}} if certain else content


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _regions(content: Content) -> dict[str, set[int]]:
    """Return the classes of every region, in declaration order; empty where all are one class."""
    labels = content.get("labels")
    entries = class_entries(labels) if isinstance(labels, dict) else {}
    if not any(isinstance(value, list) and len(value) > 1 for value in entries.values()):
        return {}
    regions = {name: _listed(value) for name, value in entries.items()}
    members = [value for region in regions.values() for value in region]
    if is_multilabel(content) or not all(map(is_int, members)):
        return {}
    return {name: set(region) for name, region in regions.items()}


def _paint_own_classes(content: Content) -> Content:
    """Write every region as the one class that no region inside it has.

    Certain only where each region has exactly one.
    """
    if not (regions := _regions(content)):
        return content
    order: list[int] = []
    for members in regions.values():
        inside = [inner for inner in regions.values() if inner < members]
        own = members.difference(*inside)
        if len(own) != 1:
            return content
        order += own
    return {**content, "regions_class_order": order}


def _paint_outermost_first(content: Content) -> Content:
    """Declare regions from the outermost in, each painted as before.

    Certain only where any two of them are nested or apart, so that nothing else depends on the
    order.
    """
    regions, order = _regions(content), content.get("regions_class_order")
    if not regions or not isinstance(order, list) or len(order) != len(regions):
        return content
    if any(a & b and not (a <= b or b <= a) for a, b in combinations(regions.values(), 2)):
        return content
    paints = dict(zip(regions, order, strict=True))
    names = sorted(regions, key=lambda name: -len(regions[name]))
    others = {n: v for n, v in content["labels"].items() if n not in regions}
    labels = {**others, **{name: content["labels"][name] for name in names}}
    return {**content, "labels": labels, "regions_class_order": [paints[name] for name in names]}


_REPAIRS: tuple[Callable[[Content], Content], ...] = (
    _rename_keys,
    _modernize,
    _turn_labels,
    _add_dot,
    _number_channels,
    _write_integers,
    _declare_background,
    _paint_own_classes,
    _paint_outermost_first,
)
