"""``predicted_by.json``: what made the predictions in a folder, and of which images.

It lets a run go on where it stopped and keeps what is stale from being used: a prediction counts
as made only by the very same weights, settings and image files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segkit.errors import UserError
from segkit.files import content_hash, failures_told, write_artifact
from segkit.runtime import log
from segkit.structs import read_struct, to_mapping

RECORD_VERSION = 1
RECORD_FILE = "predicted_by.json"
SECONDS_BETWEEN_WRITES = 2.0
"""The record of many small cases is not written after each; what it lacks is predicted again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberSource:
    """One model of those that predicted together."""

    model: str
    """Name of its folder."""
    checkpoint: str
    folds: dict[str, str]
    """Fold -> hash of its weights."""
    made_from: str
    """Hash of its plan and dataset.json."""
    share: float = 1.0
    """Weight of its probabilities, relative to those of the others."""
    previous: str | None = None
    """In a cascade: hash of what predicts first, or of the segmentations it is handed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionSource:
    """Everything a prediction depends on, but for the image."""

    members: tuple[MemberSource, ...]
    step: float
    mirrored: bool
    precision: str
    engine: str
    postprocessing: str | None = None
    """Hash of the rules that were applied."""
    label_layout: str = "integers"
    dataset: dict[str, Any] = field(default_factory=dict)
    """Content of dataset.json: what the labels mean."""
    left_out: tuple[str, ...] = ()
    """Structures of it that are not predicted."""

    def hash(self) -> str:
        """Equal for predictions that may stand for each other, wherever the models lie."""
        members = [{**to_mapping(member), "model": None} for member in self.members]
        return content_hash({**to_mapping(self), "members": members})

    def is_like(self, other: PredictionSource, *, any_precision: bool = False) -> bool:
        """Whether predictions of the other may stand for those of this one.

        Args:
            other: What made them.
            any_precision: In whatever number format and engine.
        """
        if any_precision:
            other = replace(other, precision=self.precision, engine=self.engine)
        return self.hash() == other.hash()


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionRecord:
    """The content of ``predicted_by.json``."""

    source: PredictionSource
    cases: dict[str, str]
    """Case -> hash of its image files."""


def record_path(folder: Path, part: tuple[int, int] | None = None) -> Path:
    """Where the record of a folder lies; of ``(part, parts)`` that run at once each has its own."""
    if part is None:
        return folder / RECORD_FILE
    stem, ending = RECORD_FILE.split(".")
    return folder / f"{stem}.part_{part[0]}_of_{part[1]}.{ending}"


def find_records(folder: Path) -> list[Path]:
    """List the records of a folder, of the whole and of parts."""
    stem, ending = RECORD_FILE.split(".")
    return sorted(folder.glob(f"{stem}*.{ending}"))


def read_record(path: Path) -> PredictionRecord:
    """Read a record.

    Raises:
        UserError: missing, damaged, or of another version.
    """
    return read_struct(PredictionRecord, path, version=RECORD_VERSION)


def predicted_cases(
    folder: Path, source: PredictionSource, *, any_precision: bool = False
) -> dict[str, str]:
    """Return case -> hash of its images, of all that this source predicted into a folder.

    Records that cannot be read count for nothing, which is told.
    """
    found: dict[str, str] = {}
    for path in find_records(folder):
        try:
            record = read_record(path)
        except UserError as error:
            log.warning("%s: not used: %s", path, error.what)
            continue
        if source.is_like(record.source, any_precision=any_precision):
            found |= record.cases
    return found


def open_record(
    folder: Path,
    source: PredictionSource,
    part: tuple[int, int] | None = None,
    *,
    any_precision: bool = False,
) -> RecordKeeper:
    """Begin to predict into a folder, where what the same source made before still holds.

    Records of other sources are deleted: their predictions are about to be replaced, and what is
    left of them cannot be told from the new ones.
    """
    path = record_path(folder, part)
    kept = predicted_cases(folder, source, any_precision=any_precision)
    for other in find_records(folder):
        if part is None or not _is_by(other, source):
            other.unlink(missing_ok=True)
    return RecordKeeper(path, source, kept)


def _is_by(path: Path, source: PredictionSource) -> bool:
    try:
        return read_record(path).source.hash() == source.hash()
    except UserError:
        return False


class RecordKeeper:
    """Writes down every case once its prediction is written; a context manager."""

    def __init__(self, path: Path, source: PredictionSource, cases: Mapping[str, str]) -> None:
        """Begin with the cases that were predicted before and stay."""
        self.path = path
        self.source = source
        self.cases = dict(cases)
        self._written = 0.0

    def __enter__(self) -> RecordKeeper:
        """Write the record, so that a place that cannot be written is noticed at once."""
        self._write()
        return self

    def __exit__(self, *exception: object) -> None:
        """Write what is not written yet."""
        self._write()

    def add(self, case: str, images: str) -> None:
        """Note that a case is predicted; ``images`` is the hash of its files."""
        self.cases[case] = images
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self._write()

    def _write(self) -> None:
        record = PredictionRecord(source=self.source, cases=dict(sorted(self.cases.items())))
        content, made_from = to_mapping(record), self.source.hash()
        with failures_told(self.path):
            write_artifact(self.path, content, version=RECORD_VERSION, made_from=made_from)
        self._written = time.monotonic()
