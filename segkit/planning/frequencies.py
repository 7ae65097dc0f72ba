"""How often what is trained occurs, over all training cases."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from segkit.dataset.labels import LabelSchema
from segkit.errors import UserError
from segkit.planning.fingerprint import Fingerprint

_LISTED = 10
"""Combinations told one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Occurrence:
    """How often one class or structure occurs."""

    cases: int
    """Cases that have a voxel of it."""
    annotated_cases: int
    """Cases in which somebody looked for it, anywhere; only these can lack it."""
    voxels: int
    annotated_voxels: int
    """Voxels on which it is known whether it is there."""

    @property
    def share(self) -> float:
        """Its share of the voxels on which it is known; 0 where it is known nowhere."""
        return self.voxels / self.annotated_voxels if self.annotated_voxels else 0.0


def occurrences(fingerprint: Fingerprint) -> dict[str, Occurrence]:
    """Count every class or structure of dataset.json over the training cases."""
    voxels = np.array([case.class_voxels for case in fingerprint.cases], dtype=np.int64)
    annotated = np.array([case.annotated_voxels for case in fingerprint.cases], dtype=np.int64)
    return {
        name: Occurrence(
            cases=int(np.count_nonzero(voxels[:, i])),
            annotated_cases=int(np.count_nonzero(annotated[:, i])),
            voxels=int(voxels[:, i].sum()),
            annotated_voxels=int(annotated[:, i].sum()),
        )
        for i, name in enumerate(fingerprint.class_names)
    }


def unannotated_cases(fingerprint: Fingerprint, schema: LabelSchema) -> tuple[str, ...]:
    """Name the cases in which no voxel of any class or structure of the schema is annotated."""
    trained = {one.name for one in schema.classes}
    places = [i for i, name in enumerate(fingerprint.class_names) if name in trained]
    return tuple(
        case.case
        for case in fingerprint.cases
        if not any(case.annotated_voxels[place] for place in places)
    )


def target_frequencies(fingerprint: Fingerprint, schema: LabelSchema) -> dict[str, float]:
    """Return the share of the annotated voxels that belong to each training target.

    Args:
        fingerprint: Of all training cases.
        schema: Of the same data set; structures may be left out.

    Returns:
        Region, structure or class name -> share in [0, 1], 0 for what never occurs; for a softmax
        over exclusive classes also ``background``, and then the shares add up to 1.
    """
    found = occurrences(fingerprint)
    shares = {one.name: found[one.name].share for one in schema.classes}
    if schema.overlapping:
        return shares
    if schema.has_regions:
        members = {region.name: set(region.members) for region in schema.regions}
        return {
            name: sum(shares[one.name] for one in schema.classes if one.value in values)
            for name, values in members.items()
        }
    known = any(one.annotated_voxels for one in found.values())
    return {"background": 1.0 - sum(shares.values()) if known else 0.0, **shares}


def rare_structures(
    fingerprint: Fingerprint, labels: LabelSchema, min_cases: int
) -> tuple[str, ...]:
    """Return the structures that occur in fewer than ``min_cases`` training cases.

    Raises:
        UserError: the classes exclude each other, or no structure would be left.
    """
    if min_cases <= 0:
        return ()
    if not labels.overlapping:
        what = "these classes exclude each other; only structures that may overlap can be left out"
        fix = "do without --min-cases; sampling.class_weights shows rare classes more often"
        raise UserError(what, where="--min-cases", fix=fix)
    cases = {name: found.cases for name, found in occurrences(fingerprint).items()}
    if max(cases.values()) < min_cases:
        what = f"no structure occurs in {min_cases} training cases or more: none would be left"
        raise UserError(what, where="--min-cases", fix=f"give {max(cases.values())} or less")
    return tuple(name for name, count in cases.items() if count < min_cases)


def describe_structures(fingerprint: Fingerprint, labels: LabelSchema, min_cases: int) -> list[str]:
    """Say how often every structure and every combination of them occurs, one line each.

    Nothing is said where classes exclude each other. ``labels`` knows what is left out, and
    ``min_cases`` why.
    """
    if not labels.overlapping:
        return []
    lines, left_out = [], {structure.name for structure in labels.left_out}
    for name, found in occurrences(fingerprint).items():
        where = f"in {found.cases} of {found.annotated_cases} case(s)"
        unknown = len(fingerprint.cases) - found.annotated_cases
        where += f" ({unknown} not annotated)" if unknown else ""
        line = f"structure {name}: {where}, {found.share:.3%} of the voxels"
        rare = f"; left out: in fewer than {min_cases} case(s)" if name in left_out else ""
        lines.append(line + rare)
    return lines + _describe_combinations(fingerprint)


def _describe_combinations(fingerprint: Fingerprint) -> list[str]:
    """List the most frequent combinations; the others are counted."""
    cases: Counter[str] = Counter()
    voxels: Counter[str] = Counter()
    for case in fingerprint.cases:
        cases.update(case.combinations.keys())
        voxels.update(case.combinations)
    total = voxels.total()
    ordered = sorted(voxels, key=lambda name: (-voxels[name], name))
    lines = [
        f"combination {name}: in {cases[name]} case(s), {voxels[name]} voxel(s) "
        f"({voxels[name] / total:.2%} of the labelled ones)"
        for name in ordered[:_LISTED]
    ]
    if others := ordered[_LISTED:]:
        count = sum(voxels[name] for name in others)
        share = f"{count} voxels ({count / total:.2%} of the labelled ones)"
        lines.append(f"{len(others)} other combinations: {share}")
    return lines
