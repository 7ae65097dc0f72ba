"""What the labels of one case hold: values nobody declared, what occurs, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from segkit.dataset.case_files import MULTILABEL
from segkit.dataset.cases import Case
from segkit.dataset.checks.expectations import Expectations
from segkit.dataset.checks.geometry import Grid
from segkit.dataset.checks.label_parts import Part, layout_of, read_parts
from segkit.dataset.label_files import LabelLayout
from segkit.dataset.labels import UNANNOUNCED_IGNORE, LabelSchema, is_whole
from segkit.dataset.problems import Problem, problem
from segkit.dataset.structures import PRESENT

_LISTED = 10
_YES = 255
"""What many programs write for "yes" in a mask."""


@dataclass(frozen=True, kw_only=True)
class LabelFindings:
    """What was found in the label files of one case."""

    problems: tuple[Problem, ...] = ()
    grids: tuple[Grid, ...] = ()
    """One a file."""
    layout: LabelLayout | None = None
    """None where nothing could be read."""
    largest_bitmask: int = 0
    """Largest integer read as a bitmask, ignore values aside; 0 where there is none."""
    present: frozenset[str] = frozenset()
    """Classes or structures that have a voxel."""
    labelled: np.ndarray | None = None
    """(Z, Y, X) bool: of a class or any structure; None where the labels are not understood."""
    annotated: np.ndarray | None = None
    """(Z, Y, X) bool: not ignored; of structures, at least one is not. None as above."""


def check_label_values(expected: Expectations, case: Case) -> LabelFindings:
    """Read the labels of a case and return everything that is wrong with their values."""
    if case.label is None:
        return LabelFindings()
    schema = expected.labels
    parts, problems = read_parts(case.label, expected, case)
    found = [_check_values(part, schema, case) for part in parts]
    problems += [each for some in found for each in some]
    if parts and not any(part.values[0].any() for part in parts):
        fix = "fine if nothing is there to segment; else annotate or remove the case"
        what = "all label voxels are background"
        problems.append(problem("SK-V004", what, where=case.label, fix=fix, case=case.id))
    counts = _class_counts(parts, schema) if schema else Counter()
    problems += _check_unannotated(counts, case)
    shapes = {part.voxels.shape for part in parts}
    broken = any(each.severity == "error" for each in problems)
    understood = len(shapes) == 1 and not broken
    labelled, annotated = _locate(parts, schema, case) if understood and schema else (None, None)
    return LabelFindings(
        problems=tuple(problems),
        grids=tuple({part.grid.file: part.grid for part in parts}.values()),
        layout=layout_of(parts, case.label),
        largest_bitmask=_largest_bitmask(parts, schema) if schema else 0,
        present=frozenset(counts.keys() - set(case.unannotated)),
        labelled=labelled,
        annotated=annotated,
    )


def _check_values(part: Part, schema: LabelSchema | None, case: Case) -> list[Problem]:
    told = partial(problem, where=part.grid.file, case=case.id)
    mask = f"mask of {part.structure}: " if part.structure is not None else ""
    values, counts = part.values
    if not (finite := np.isfinite(values)).all():
        what = f"{mask}{counts[~finite].sum()} label voxels are NaN or infinite"
        return [told("SK-V001", what, fix="replace them by a declared value")]
    found = []
    if (off := ~is_whole(values)).any():
        what = f"{mask}fractional values: {_listing(values[off], counts[off])}"
        fix = "export again with nearest-neighbour interpolation and an integer type"
        found.append(told("SK-V002", what, fix=fix))
    if schema is None:
        return found
    if unknown := _undeclared(part, schema):
        kind = "bits" if part.encoding == "bits" and min(unknown) > 0 else "values"
        what = f"{mask}undeclared {kind}: {_listing(*zip(*sorted(unknown.items()), strict=True))}"
        found.append(told("SK-V003", what, fix=_undeclared_fix(unknown, part, schema)))
    marked = sum(n for _, value, n in _whole(part) if value == UNANNOUNCED_IGNORE)
    if marked and UNANNOUNCED_IGNORE not in schema.ignore_values:
        what = (
            f"{mask}{marked} label voxels are -1; they are read as ignore (nobody annotated them)"
        )
        fix = 'if that is meant, say so with "ignore_label": -1; else correct the file'
        found.append(told("SK-V008", what, fix=fix))
    return found


def _whole(part: Part) -> Iterator[tuple[float, int, int]]:
    """Yield every value that is an integer: as stored, as an integer, and its voxels."""
    values, counts = part.values
    kept = is_whole(values)
    for value, count in zip(values[kept].tolist(), counts[kept].tolist(), strict=True):
        yield value, round(value), count


def _meaning(value: int, part: Part, schema: LabelSchema) -> tuple[frozenset[str], int]:
    """Return the classes a value stands for, and what of it nobody declared (0 for nothing)."""
    if value == 0 or value in schema.ignored_values:
        return frozenset(), 0
    if part.encoding == "classes":
        names = frozenset(c.name for c in schema.classes if c.value == value)
        return names, 0 if names else value
    if part.encoding == "mask":
        known = value == PRESENT and part.structure is not None
        return frozenset(
            {part.structure} if known and part.structure else ()
        ), 0 if known else value
    if value < 0:
        return frozenset(), value
    bits = zip(schema.classes, schema.structure_bits, strict=True)
    held = {structure.name: 1 << bit for structure, bit in bits if value >> bit & 1}
    return frozenset(held), value - sum(held.values())


def _undeclared(part: Part, schema: LabelSchema) -> Counter[int]:
    """Count the voxels of values, or single bits, that nobody declared."""
    unknown: Counter[int] = Counter()
    for _, value, count in _whole(part):
        _, rest = _meaning(value, part, schema)
        if part.encoding == "bits" and rest > 0:
            unknown.update({1 << bit: count for bit in range(rest.bit_length()) if rest >> bit & 1})
        elif rest:
            unknown[rest] += count
    return unknown


def _class_counts(parts: Sequence[Part], schema: LabelSchema) -> Counter[str]:
    """Count the voxels of every class or structure that occurs."""
    counts: Counter[str] = Counter()
    for part in parts:
        for _, value, count in _whole(part):
            counts.update(dict.fromkeys(_meaning(value, part, schema)[0], count))
    return counts


def _largest_bitmask(parts: Sequence[Part], schema: LabelSchema) -> int:
    masks = (part for part in parts if part.encoding == "bits")
    values = (value for part in masks for _, value, _ in _whole(part))
    return max((value for value in values if value not in schema.ignored_values), default=0)


def _locate(
    parts: Sequence[Part], schema: LabelSchema, case: Case
) -> tuple[np.ndarray, np.ndarray]:
    """Return where something is labelled and where something is annotated, (Z, Y, X) bool each."""
    labelled = np.zeros(parts[0].voxels.shape, dtype=bool)
    annotated = labelled.copy()
    gone = set(case.unannotated)
    for part in parts:
        concerned = (
            {part.structure} if part.encoding == "mask" else {c.name for c in schema.classes}
        )
        if concerned <= gone:
            continue
        values = [(stored, value) for stored, value, _ in _whole(part)]
        labels = [stored for stored, value in values if _meaning(value, part, schema)[0] - gone]
        ignored = [stored for stored, value in values if value in schema.ignored_values]
        labelled |= np.isin(part.voxels, labels)
        annotated |= ~np.isin(part.voxels, ignored)
    return labelled, annotated


def _check_unannotated(counts: Mapping[str, int], case: Case) -> list[Problem]:
    fix = 'delete the name from "unannotated" if the structure is annotated after all'
    return [
        problem(
            "SK-V012",
            f"{name} is named as not annotated, but has {counts[name]} voxels; they are not used",
            where=case.label,
            fix=fix,
            case=case.id,
        )
        for name in case.unannotated
        if counts.get(name)
    ]


def _listing(values: Sequence[float] | np.ndarray, counts: Sequence[int] | np.ndarray) -> str:
    pairs = zip(values[:_LISTED], counts[:_LISTED], strict=True)
    listed = ", ".join(f"{_written(value)} ({count} voxels)" for value, count in pairs)
    return listed + (f" and {len(values) - _LISTED} more" if len(values) > _LISTED else "")


def _written(value: float) -> str:
    """Write a value with all digits of a whole one."""
    return str(int(value)) if value == int(value) else f"{value:g}"


def _undeclared_fix(unknown: Mapping[int, int], part: Part, schema: LabelSchema) -> str:
    if part.encoding == "mask":
        if part.structure is None:
            return "declare the structure of this place under labels, or empty the mask"
        saved = "the mask was saved as 0 and 255: " * (list(unknown) == [_YES])
        return f"{saved}write {PRESENT} where the structure is, else 0"
    if part.encoding == "bits":
        bits = zip(schema.classes, schema.structure_bits, strict=True)
        declared = ", ".join(f"{1 << bit} {structure.name}" for structure, bit in bits)
        return f"declare every bit under labels, or correct the file; declared bits: {declared}"
    declared = f"declared: {schema.describe()}"
    if _may_be_bitmasks(unknown, schema):
        return (
            f"are these bitmasks of structures that overlap? then add {MULTILABEL}; else declare "
            f"the values under labels, or correct the file; {declared}"
        )
    if list(unknown) != [_YES]:
        return f"declare them under labels, or correct the file; {declared}"
    only = schema.classes[0] if len(schema.classes) == 1 else None
    if only is not None and only.value not in part.values[0]:
        return (
            f"the mask was saved as 0 and {_YES}: replace {_YES} by {only.value} in the label "
            f'files, or declare "{only.name}": {_YES}'
        )
    return (
        f'if {_YES} marks voxels that nobody annotated, add "ignore_label": {_YES}; else correct '
        f"the file; {declared}"
    )


def _may_be_bitmasks(unknown: Mapping[int, int], schema: LabelSchema) -> bool:
    """Whether all declared values are bits, and all undeclared ones sums of them."""
    values = [structure.value for structure in schema.classes]
    powers = all(value & (value - 1) == 0 for value in values)
    return (
        powers
        and not schema.has_regions
        and all(value > 0 and not value & ~sum(values) for value in unknown)
    )
