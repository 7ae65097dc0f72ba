"""All problems of structures that overlap: their values, their names, who looked for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkit.dataset.case_names import is_usable
from segkit.dataset.labels import class_entries, is_multilabel
from segkit.dataset.problems import Problem, problem
from segkit.dataset.structures import LARGEST_BITMASK
from segkit.errors import nearest
from segkit.json_text import is_int, shown

LARGEST_BIT = 1 << (LARGEST_BITMASK - 1)


def check_structures(
    entries: Mapping[str, Any], content: Mapping[str, Any], source: object
) -> list[Problem]:
    """Return all problems that structures have because they may overlap.

    Args:
        entries: Labels without background and ignore.
        content: The parsed dataset.json.
        source: Where it comes from, for the messages.
    """
    where = f"{source}, key labels"
    lists = [name for name, value in entries.items() if isinstance(value, list)]
    found = []
    for name in lists:
        what = f"{shown(name)} is a region, {shown(entries[name])}, among structures that overlap"
        fix = "give it a mask (or bit) of its own and a single value, or leave it out; regions \
need labels that exclude each other (no label_encoding)"
        found.append(problem("SK-D039", what, where=where, fix=fix))
    if "regions_class_order" in content:
        what = "structures that overlap are not painted over each other"
        order = f"{source}, key regions_class_order"
        found.append(problem("SK-D039", what, where=order, fix="delete regions_class_order"))
    if not lists:
        found += _check_values(entries, where)
    for name in entries:
        if name.strip() and not is_usable(name):
            what = f"{shown(name)} cannot be a file name; one file a structure may be stored"
            fix = 'rename it without "/", a leading dot or 200 letters'
            found.append(problem("SK-D044", what, where=where, fix=fix))
    return found


def _check_values(entries: Mapping[str, Any], where: str) -> list[Problem]:
    values = list(entries.values())
    if not all(is_int(value) and value > 0 for value in values) or len(set(values)) < len(values):
        return []  # told one by one
    numbers = list(range(1, len(values) + 1))
    if sorted(values) == numbers:
        return []
    if all(value & (value - 1) == 0 for value in values):
        if max(values) <= LARGEST_BIT:
            return []
        what = f"a bitmask holds {LARGEST_BITMASK} structures; one has the value {max(values)}"
        fix = f"store a mask a structure, and write the numbers 1 to {len(values)} in their order"
        return [problem("SK-D041", what, where=where, fix=fix)]
    bits = {name: 1 << i for i, name in enumerate(entries)}
    what = f"the values {shown(sorted(values))} are neither bits nor numbers without a gap"
    fix = f"write the bit of each in the bitmask, such as {shown(bits, 400)}, or the numbers 1 to \
{len(values)} in the order of the masks"
    return [problem("SK-D040", what, where=where, fix=fix)]


def check_unannotated(content: Mapping[str, Any], where: str) -> list[Problem]:
    """Return all problems of the structures that nobody looked for in some cases.

    Whether the cases exist only the files tell.
    """
    cases = content.get("unannotated", {})
    expected = 'write "unannotated": {"CASE": ["NAME of a structure", ...], ...}'
    if not isinstance(cases, Mapping):
        what = f"expected cases with names, got {shown(cases)}"
        return [problem("SK-D045", what, where=where, fix=expected)]
    if cases and not is_multilabel(content):
        what = "single structures can be left unannotated only where structures overlap"
        fix = 'declare "label_encoding": "multilabel", or mark the voxels with an ignore_label'
        return [problem("SK-D047", what, where=where, fix=fix)]
    labels = content.get("labels")
    declared = list(class_entries(labels)) if isinstance(labels, Mapping) else []
    found = []
    for case, names in cases.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            what = f"the case {shown(case)} has {shown(names)}, not a list of names"
            found.append(problem("SK-D045", what, where=where, fix=expected, case=case))
            continue
        for name in (name for name in names if declared and name not in declared):
            what = f"the structure {shown(name)} of the case {shown(case)} is not declared"
            fix = nearest(name, declared)
            found.append(problem("SK-D046", what, where=where, fix=fix, case=case))
    return found
