"""Preprocessed cases on disk: plain ``.npy`` files that are memory-mapped, and one JSON each.

``CASE.json`` is deleted first and written last, so a case that has one is complete. It says what
the case was made from, so that a stale one is recognised.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segkit.dataset.labels import LabelSchema
from segkit.errors import UserError
from segkit.files import atomic_write, content_hash, read_artifact, write_artifact
from segkit.preprocessing.locations import ANNOTATED, Locations, find_locations
from segkit.preprocessing.pipeline import CaseRecord, PreprocessedCase
from segkit.structs import from_mapping, to_mapping

STORE_VERSION = 3
"""Raise it when preprocessing gives other numbers: every stored case is then made again."""
SUFFIXES = (".npy", "_seg.npy", "_locations.npy", ".json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What a case was made from."""

    settings: str = ""
    """Hash of plan and labels, as far as preprocessing depends on them."""
    identity: str = ""
    """Hash of the names and contents of the case's files."""
    stamps: tuple[tuple[str, int, int], ...] = ()
    """Name, size and modification time (ns) of each file: while they stand, so does its hash."""


@dataclass(frozen=True, slots=True)
class PreprocessedStore:
    """The preprocessed cases in a folder."""

    folder: Path

    def case_ids(self) -> tuple[str, ...]:
        """Return the complete cases, sorted."""
        return tuple(sorted(path.name.removesuffix(".json") for path in self.folder.glob("*.json")))

    def image(self, case_id: str) -> np.ndarray:
        """Return the image (C, Z, Y, X) as a read-only float32 memory map."""
        return self._load(f"{case_id}.npy")

    def seg(self, case_id: str) -> np.ndarray:
        """Return (1, Z, Y, X) int16, or (S, Z, Y, X) int8 for structures, as a memory map."""
        return self._load(f"{case_id}_seg.npy")

    def record(self, case_id: str) -> CaseRecord:
        """Return what was done to the case."""
        return self._part(CaseRecord, case_id, "record")

    def source(self, case_id: str) -> Source | None:
        """Return what the case was made from; None where there is no complete case."""
        try:
            return self._part(Source, case_id, "source")
        except UserError:
            return None

    def locations(self, case_id: str) -> Locations:
        """Return sampled foreground voxels; see :func:`.locations.find_locations` for the keys."""
        voxels = self._load(f"{case_id}_locations.npy")
        return {
            key if key == ANNOTATED else int(key): voxels[start:stop]
            for key, (start, stop) in self._content(case_id)["locations"].items()
        }

    def save(
        self,
        case_id: str,
        case: PreprocessedCase,
        *,
        schema: LabelSchema,
        source: Source | None = None,
    ) -> None:
        """Write a case that has labels; one that is there already is replaced."""
        if case.seg is None:
            raise ValueError(f"case {case_id!r} has no label map to store")
        source = source or Source()
        locations = find_locations(case.seg, schema)
        self.remove(case_id)
        self._save(f"{case_id}.npy", case.image)
        self._save(f"{case_id}_seg.npy", case.seg)
        empty = np.empty((0, 3), dtype=np.int32)
        self._save(f"{case_id}_locations.npy", np.concatenate([empty, *locations.values()]))
        content = {
            "record": to_mapping(case.record),
            "source": to_mapping(source),
            "locations": _spans(locations),
        }
        made_from = content_hash([source.settings, source.identity])
        path = self.folder / f"{case_id}.json"
        write_artifact(path, content, version=STORE_VERSION, made_from=made_from)

    def remove(self, case_id: str) -> None:
        """Delete a case, its JSON first."""
        for suffix in reversed(SUFFIXES):
            (self.folder / f"{case_id}{suffix}").unlink(missing_ok=True)

    def _content(self, case_id: str) -> dict[str, Any]:
        return read_artifact(self.folder / f"{case_id}.json", version=STORE_VERSION)

    def _part(self, cls: type, case_id: str, key: str) -> Any:
        path = self.folder / f"{case_id}.json"
        return from_mapping(cls, self._content(case_id).get(key), source=path, path=key)

    def _load(self, name: str) -> np.ndarray:
        return load_array(self.folder / name, "delete the file and run 'segkit preprocess' again")

    def _save(self, name: str, array: np.ndarray) -> None:
        save_array(self.folder / name, array)


def load_array(path: Path, remedy: str) -> np.ndarray:
    """Open a ``.npy`` file as a read-only memory map.

    Raises:
        UserError: missing or damaged.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the array: {error}", where=path, fix=remedy) from None


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a ``.npy`` file, whole or not at all."""
    with atomic_write(path) as stream:
        np.save(stream, array, allow_pickle=False)


def read_soon(array: np.ndarray, box: Sequence[slice]) -> None:
    """Tell the system which rows of a memory map will be read; of other arrays nothing.

    Where a patch is not in the page cache it is then read in large pieces, and not page by page
    as it is touched: two to three times as fast (``docs/benchmarks.md``, store).

    Args:
        array: (C, Z, Y, X) as stored.
        box: What is read of z, y, x: slices with start and stop inside the array.
    """
    mapped: Any = array.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED"):
        for start, stop in row_pages(array, box):
            mapped.madvise(mmap.MADV_WILLNEED, start, stop - start)


def row_pages(array: Any, box: Sequence[slice]) -> Iterator[tuple[int, int]]:
    """Yield the bytes (start, stop) of the rows of a box in a memory map; starts are of pages."""
    (z, y, _), (channels, depth, height, width) = box, array.shape
    # The map begins at a page of the file, and the array behind the header.
    header = array.offset % mmap.ALLOCATIONGRANULARITY
    for channel, plane in itertools.product(range(channels), range(z.start, z.stop)):
        first_row = (channel * depth + plane) * height + y.start
        begin = header + first_row * width * array.itemsize
        end = begin + (y.stop - y.start) * width * array.itemsize
        yield begin // mmap.PAGESIZE * mmap.PAGESIZE, end


def _spans(locations: Locations) -> dict[str, tuple[int, int]]:
    """Return (start, stop) of every key in the stacked coordinates."""
    spans, start = {}, 0
    for key, voxels in locations.items():
        spans[str(key)] = (start, start + len(voxels))
        start += len(voxels)
    return spans
