"""What a previous stage predicts of training cases, on the grid of the next one.

Label maps lie beside the preprocessed cases whose grid they share, ``CASE.npy`` and a ``CASE.json``
that says what they were made from: other weights, another plan or other images make them stale.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.errors import UserError
from segkit.files import read_artifact, write_artifact
from segkit.preprocessing.store import load_array, save_array

STAGE_VERSION = 1
"""Raise it when predictions are brought to the grid otherwise: all are then made again."""


@dataclass(frozen=True, slots=True)
class StageStore:
    """The predictions in a folder."""

    folder: Path

    def labels(self, case_id: str) -> np.ndarray:
        """Return (1 or S, Z, Y, X) small integers as a read-only memory map: schema indices."""
        return load_array(self.folder / f"{case_id}.npy", "delete the file and train again")

    def is_made_from(self, case_id: str, made_from: str) -> bool:
        """Whether a complete prediction is there that was made from just this."""
        try:
            found = read_artifact(self.folder / f"{case_id}.json", version=STAGE_VERSION)
        except UserError:
            return False
        return found["made_from"] == made_from and (self.folder / f"{case_id}.npy").is_file()

    def save(self, case_id: str, labels: np.ndarray, *, made_from: str) -> None:
        """Write a prediction; one that is there already is replaced."""
        (self.folder / f"{case_id}.json").unlink(missing_ok=True)
        highest = int(labels.max(initial=0))
        dtype = np.int8 if highest <= np.iinfo(np.int8).max else np.int16
        save_array(self.folder / f"{case_id}.npy", labels.astype(dtype))
        path = self.folder / f"{case_id}.json"
        write_artifact(path, {}, version=STAGE_VERSION, made_from=made_from)

    def keep_only(self, case_ids: Collection[str]) -> None:
        """Delete what belongs to other cases."""
        for path in [*self.folder.glob("*.json"), *self.folder.glob("*.npy")]:
            if path.stem not in case_ids:
                path.unlink(missing_ok=True)
