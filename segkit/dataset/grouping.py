"""Which cases belong together, so that no fold trains on one and validates on another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from segkit.dataset.tables import CaseTable
from segkit.errors import UserError, listing, nearest

BY_IMAGES = "images"
"""The rule that keeps cases with the same image together, and nothing else."""
_WORD = r"[\w -]+"

_USUAL_NAMES = (
    r"^(sub-[^_]+)_",
    r"^(.+)[_-][A-Za-z]+-?\d+$",
    r"^(.+)[_-]\d{1,3}$",
    r"^(.+)[_-][A-Za-z]+$",
)
"""How patient and visit are written into one name: sub-01_ses-2, P001_t0, 0012_3, P7_left."""
_PATIENT = "patient|subject|participant|person|individual"
_FEWEST_GROUPS, _LARGEST_GROUP = 3, 20
"""Of a proposal; other numbers are more likely to be sites or a series of names."""


def groups_of(
    case_ids: Sequence[str],
    rule: str | None,
    table: CaseTable | None,
    together: Iterable[Sequence[str]] = (),
) -> dict[str, str]:
    """Return case -> the name of its group.

    Args:
        case_ids: All cases.
        rule: A column of the table; or a regular expression whose first group (or, without one,
            whose match) in the case's id names the group; or ``images``; None: nothing.
        table: What is known of the cases, if there is such a table.
        together: Sets of cases that stay together whatever the rule says: their groups become one,
            which has the name of the first of them.

    Raises:
        UserError: no such column, no regular expression, or cases that it does not find.
    """
    if rule is None or rule == BY_IMAGES:
        groups = {case: case for case in case_ids}
    elif table is not None and rule in table.columns:
        groups = table.values(rule, case_ids)
    else:
        groups = _matched(case_ids, rule, table)
    return _merged(groups, together)


def _matched(case_ids: Sequence[str], rule: str, table: CaseTable | None) -> dict[str, str]:
    where = "--group-by"
    if re.fullmatch(_WORD, rule):
        known = "there is no table" if table is None else nearest(rule, table.columns)
        fix = f"{known}; or give a regular expression such as '^(.+)_', or --table FILE"
        raise UserError(f"{rule!r} is no column of a table of cases", where=where, fix=fix)
    try:
        pattern = re.compile(rule)
    except re.error as error:
        fix = "for example '^(.+)_' takes what stands before the last underscore"
        what = f"{rule!r} is no regular expression: {error}"
        raise UserError(what, where=where, fix=fix) from None
    found = {case: _name(pattern, case) for case in case_ids}
    if unmatched := [case for case, name in found.items() if not name]:
        what = f"{rule!r} finds no group in {len(unmatched)} of {len(found)} cases"
        fix = "make it match every case's id"
        raise UserError(f"{what}: {listing(unmatched)}", where=where, fix=fix)
    return found


def _name(pattern: re.Pattern[str], case: str) -> str:
    match = pattern.search(case)
    return "" if match is None else (match[1] if pattern.groups else match[0]) or ""


def _merged(groups: Mapping[str, str], together: Iterable[Sequence[str]]) -> dict[str, str]:
    """Make one group of all that have cases in one set."""
    leader = {name: name for name in groups.values()}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for cases in together:
        first, *others = (find(groups[case]) for case in cases)
        for other in others:
            leader[find(other)] = find(first)
    return {case: find(name) for case, name in groups.items()}


def propose_rule(case_ids: Sequence[str]) -> tuple[str, int] | None:
    """Return a regular expression for ids that look like patient and visit, and its groups.

    None where they do not: the part before the last one has to hold a number, and to be shared by
    some cases, but not by many.
    """
    for rule in _USUAL_NAMES:
        pattern = re.compile(rule)
        sizes = Counter(_name(pattern, case) for case in case_ids)
        several = sum(size > 1 for size in sizes.values())
        numbered = all(re.search(r"\d", name) for name in sizes)  # "" too where one has no match
        likely = several >= 2 and len(sizes) >= _FEWEST_GROUPS
        if numbered and likely and max(sizes.values()) <= _LARGEST_GROUP:
            return rule, len(sizes)
    return None


def propose_column(table: CaseTable, case_ids: Sequence[str]) -> tuple[str, int] | None:
    """Return a column that names the patient of every case, and the patients; None without one."""
    for column in table.columns:
        if not re.search(_PATIENT, column, re.IGNORECASE):
            continue
        values = [table.rows.get(case, {}).get(column, "") for case in case_ids]
        if all(values) and 1 < len(set(values)) < len(values):
            return column, len(set(values))
    return None
