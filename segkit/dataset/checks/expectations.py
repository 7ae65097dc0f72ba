"""What the files of every case are held to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segkit.dataset.cases import Case
from segkit.dataset.labels import LabelSchema
from segkit.dataset.problems import Problem, problem
from segkit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Expectations:
    """What dataset.json promises about every case."""

    channels: int
    labels: LabelSchema | None
    """None leaves label values unchecked."""
    reader: str | None
    overlapping: bool = False
    """Whether a case may have several masks; said apart because ``labels`` may be unknown."""


def unreadable(error: UserError, file: Path, case: Case, code: str = "SK-F010") -> Problem:
    """Turn a reader's refusal into a problem."""
    fix = error.fix or "restore the file from its source"
    return problem(code, error.what, where=error.where or file, fix=fix, case=case.id)
