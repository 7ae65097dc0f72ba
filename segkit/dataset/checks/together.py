"""What only all cases of a data set together show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from segkit.dataset.checks.case import Findings
from segkit.dataset.duplicates import same_images
from segkit.dataset.labels import LabelSchema
from segkit.dataset.nonzero import BLACK_TOLERANCE
from segkit.dataset.problems import Problem, problem
from segkit.errors import listing

K = TypeVar("K")

_LISTED = 5
_FEWEST_NUMBERS = 3
"""The numbers 1 and 2 are bits as well: 1 to 3 are the first that say which of the two is meant."""


def check_together(
    findings: Sequence[Findings], schema: LabelSchema | None, file: Path
) -> list[Problem]:
    """Return the problems of a data set that no case shows by itself.

    Args:
        findings: Of at least one case.
        schema: None where labels is not understood.
        file: dataset.json, for the messages.
    """
    images = findings[0].case.images[0].parent
    return [
        *_check_occurring(findings, schema, file),
        *_check_orientations(findings, images),
        *_check_axes(findings, images),
        *_check_layouts(findings, file),
        *_check_duplicates(findings),
        *_check_black(findings, images),
    ]


def _check_occurring(
    findings: Sequence[Findings], schema: LabelSchema | None, file: Path
) -> list[Problem]:
    if schema is None:
        fix = "mend the errors of dataset.json, then validate again"
        what = "label values were not checked, because labels is not understood"
        return [problem("SK-V007", what, where=file, fix=fix)]
    if all(finding.layout is None for finding in findings):
        return []  # no labels could be read, which is told already
    present = frozenset().union(*(finding.present for finding in findings))
    unlooked = {name for finding in findings for name in finding.case.unannotated}
    if not unlooked and _look_exclusive(findings, schema):
        return [_told_exclusive(findings, schema, present, file)]
    fix = "delete it from labels, or add cases that have it"
    return [
        problem("SK-V006", f"{c.name} ({c.value}) occurs in no {place}", where=file, fix=fix)
        for c in schema.classes
        if c.name not in present
        for place in ["case in which it is annotated" if c.name in unlooked else "label file"]
    ]


def _look_exclusive(findings: Sequence[Findings], schema: LabelSchema) -> bool:
    """Whether what is read as bitmasks may rather be the numbers of classes.

    Bitmasks of S >= 3 structures, numbered 1 to S, go up to 2^S - 1. No value above S occurs: then
    the last structure never does, as its bit alone is more than S.
    """
    count = len(schema.classes)
    numbered = sorted(c.value for c in schema.classes) == list(range(1, count + 1))
    if not schema.overlapping or count < _FEWEST_NUMBERS or not numbered:
        return False
    stored = {finding.layout for finding in findings} - {None}
    return stored == {"integers"} and 0 < max(f.largest_bitmask for f in findings) <= count


def _told_exclusive(
    findings: Sequence[Findings], schema: LabelSchema, present: Collection[str], file: Path
) -> Problem:
    largest = max(finding.largest_bitmask for finding in findings)
    absent = listing([c.name for c in schema.classes if c.name not in present])
    what = (
        f"no value above {largest} occurs, and labels declares the numbers 1 to "
        f"{len(schema.classes)}: the files look like one class a voxel. Read as bitmasks, as "
        f"label_encoding says, they hold no voxel of {absent}"
    )
    fix = (
        "if each voxel is of one class, delete label_encoding; else delete from labels what never "
        "occurs, or add cases that have it"
    )
    return problem("SK-V013", what, where=file, fix=fix)


def _check_orientations(findings: Sequence[Findings], where: Path) -> list[Problem]:
    groups = _groups(findings, lambda finding: finding.orientation)
    if len(groups) < 2:
        return []
    counts = ", ".join(f"{code} {len(cases)}" for code, cases in groups)
    what = f"cases are stored in {len(groups)} orientations ({counts})"
    fix = "nothing needs to be done: cases are brought to the commonest one, results back"
    return [problem("SK-G005", what, where=where, fix=fix)]


def _check_axes(findings: Sequence[Findings], where: Path) -> list[Problem]:
    groups = _groups(findings, lambda finding: finding.axes)
    if len(groups) < 2:
        return []
    (usual, many), (other, few) = groups
    what = f"{len(many)} cases are {usual}D and {len(few)} are {other}D: {_listing(few)}"
    fix = (
        "make two data sets, or store all alike; TIFF stacks need "
        '"overwrite_image_reader_writer": "Tiff3DIO" if some have one page only'
    )
    return [problem("SK-G006", what, where=where, fix=fix)]


def _check_layouts(findings: Sequence[Findings], where: Path) -> list[Problem]:
    kinds = {
        "integers": "one integer a voxel",
        "masks": "masks in one file",
        "folder": "a folder of masks",
    }
    groups = _groups(findings, lambda finding: finding.layout)
    if len(groups) < 2:
        return []
    ways = "; ".join(f"{kinds[layout]}: {_listing(cases)}" for layout, cases in groups)
    what = f"labels are stored in {len(groups)} ways: {ways}"
    first = next(finding.case.id for finding in findings if finding.layout is not None)
    fix = f"predictions are written like the labels of {first}, the first case; store all alike"
    return [problem("SK-F024", what, where=where, fix=fix)]


def _check_duplicates(findings: Sequence[Findings]) -> list[Problem]:
    """Tell cases that share an image, each set of cases once; constant images are left out."""
    by_id = {finding.case.id: finding for finding in findings}
    shared = same_images({case: finding.image_hashes for case, finding in by_id.items()})
    fix = (
        "remove all but one; or keep them on the same side: segkit plan --group-by images, or "
        "a splits_final.json"
    )
    return [
        problem(
            "SK-V010",
            f"the cases {_listing([by_id[case] for case in cases])} have the same image voxel by "
            "voxel; in cross-validation one may be trained on and another validated on, which "
            "makes scores too good",
            where=by_id[cases[0]].case.images[0],
            fix=fix,
            case=cases[0],
        )
        for cases in shared
    ]


def _check_black(findings: Sequence[Findings], where: Path) -> list[Problem]:
    labelled = sum(finding.labelled_voxels for finding in findings)
    in_zero = sum(finding.labelled_in_zero for finding in findings)
    if not labelled or in_zero / labelled <= BLACK_TOLERANCE:
        return []
    cases = [finding for finding in findings if finding.labelled_in_zero]
    worst = max(cases, key=lambda finding: finding.labelled_in_zero)
    what = (
        f"{in_zero / labelled:.3%} of the labelled voxels ({in_zero} of {labelled}, in "
        f"{len(cases)} cases, most in {worst.case.id}: {worst.labelled_in_zero}) lie where every "
        "channel is exactly 0, connected to the outside of the image (limit "
        f"{BLACK_TOLERANCE:.2%}): zeros are not always empty here, so prediction is not forced to "
        "background there"
    )
    fix = "fine if tissue can be exactly 0 (black in MR, 0 HU in CT); else see whether image and \
labels belong together"
    return [problem("SK-V009", what, where=where, fix=fix)]


def _groups(
    findings: Sequence[Findings], key: Callable[[Findings], K | None]
) -> list[tuple[K, list[Findings]]]:
    """Sort cases by what they have in common, the commonest first; None is left out."""
    groups: defaultdict[K, list[Findings]] = defaultdict(list)
    for finding in findings:
        if (value := key(finding)) is not None:
            groups[value].append(finding)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _listing(findings: Sequence[Findings]) -> str:
    return listing([finding.case.id for finding in findings], _LISTED)
