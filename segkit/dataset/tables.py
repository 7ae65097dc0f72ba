"""What is known of the cases besides images: patient, site, age, ... from a CSV or JSON table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from segkit.dataset.description import DatasetDescription
from segkit.errors import UserError, listing, nearest
from segkit.files import read_json, read_text
from segkit.runtime import log

CASE_COLUMN = "case"


@dataclass(frozen=True, kw_only=True)
class CaseTable:
    """A row a case."""

    path: Path
    columns: tuple[str, ...]
    """All but that of the cases."""
    rows: Mapping[str, Mapping[str, str]]
    """Case -> column -> value; what a row lacks is empty."""

    def values(self, column: str, case_ids: Sequence[str]) -> dict[str, str]:
        """Return case -> value of a column.

        Raises:
            UserError: no such column, or cases without a row or a value.
        """
        if column not in self.columns:
            fix = nearest(column, self.columns)
            raise UserError(f"the table has no column {column!r}", where=self.path, fix=fix)
        found = {case: self.rows.get(case, {}).get(column, "") for case in case_ids}
        if empty := [case for case, value in found.items() if not value]:
            what = f"{len(empty)} of {len(found)} cases have no {column}: {listing(empty)}"
            raise UserError(what, where=self.path, fix="add a row for every case, and its value")
        return found

    def tell_unused(self, case_ids: Sequence[str]) -> None:
        """Name the rows that are of none of the cases."""
        if unknown := sorted(self.rows.keys() - set(case_ids)):
            text = "%s: rows that are no training cases have no effect: %s"
            log.info(text, self.path, listing(unknown))


def usual_table(description: DatasetDescription) -> Path:
    """Where a table is looked for unless another is named."""
    return description.folder / "cases.csv"


def read_table(path: Path) -> CaseTable:
    """Read a table of cases.

    CSV: a header, then a row a case; separated by commas, semicolons or tabs. JSON: a list of
    objects, or case -> object. The case is named in the column ``case``, else in the first.

    Raises:
        UserError: no such file, no table, or two different rows for a case.
    """
    rows = _rows_of_json(path) if path.suffix.lower() == ".json" else rows_of_csv(path)
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    if not columns:
        fix = "write a header and a row for every case, e.g.: case,patient"
        raise UserError("the table is empty", where=path, fix=fix)
    key = next((name for name in columns if name.casefold() == CASE_COLUMN), columns[0])
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        case = row.get(key, "")
        others = {name: value for name, value in row.items() if name != key}
        if table.setdefault(case, others) != others:
            what = f"two rows for the case {case!r} that are not the same"
            raise UserError(what, where=path, fix="keep one of them")
    return CaseTable(path=path, columns=tuple(c for c in columns if c != key), rows=table)


def rows_of_csv(path: Path) -> list[dict[str, str]]:
    """Read a CSV with a header: column -> value of every row, empty where a row ends early.

    Values are separated by commas, semicolons or tabs, whichever the header has most of; spaces
    around them and empty lines are left out.

    Raises:
        UserError: no such file, no CSV, a column twice, or a row longer than the header.
    """
    text = read_text(path)
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    try:
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=separator) if any(line)]
    except csv.Error as error:
        raise UserError(f"no CSV: {error}", where=path, fix="save the table as CSV") from None
    if not lines:
        return []
    names, *others = [[cell.strip() for cell in line] for line in lines]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two columns are called {doubled[0]!r}", where=path, fix="rename one")
    for number, line in enumerate(others, start=2):
        if len(line) > len(names):
            what = f"row {number} has {len(line)} values, the header names {len(names)} columns"
            raise UserError(what, where=path, fix="quote values that hold the separator")
    return [dict(zip_longest(names, line, fillvalue="")) for line in others]


def _rows_of_json(path: Path) -> list[dict[str, str]]:
    content = read_json(path)
    if isinstance(content, dict) and all(isinstance(row, dict) for row in content.values()):
        content = [{CASE_COLUMN: case, **row} for case, row in content.items()]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        fix = 'write [{"case": "a", "patient": "P1"}, ...] or {"a": {"patient": "P1"}, ...}'
        raise UserError("expected a list of rows", where=path, fix=fix)
    return [{name: _text(value) for name, value in row.items()} for row in content]


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
