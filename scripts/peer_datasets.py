"""Raw data sets to compare segkit and nnU-Net on: parts of real ones, and made ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


def some_cases(source: Path, folder: Path, most: int, smaller_than: int) -> int:
    """Copy the first cases of a data set whose images are not too large; returns their number."""
    content = json.loads((source / "dataset.json").read_text())
    ending = content["file_ending"]
    channels = len(content["channel_names"])
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    count = 0
    for label in sorted((source / "labelsTr").glob(f"*{ending}")):
        case = label.name.removesuffix(ending)
        images = [source / "imagesTr" / f"{case}_{i:04d}{ending}" for i in range(channels)]
        if count < most and sum(image.stat().st_size for image in images) < smaller_than:
            shutil.copy(label, folder / "labelsTr")
            for image in images:
                shutil.copy(image, folder / "imagesTr")
            count += 1
    write_json(folder / "dataset.json", {**content, "numTraining": count})
    return count


def hippocampus(folder: Path, data: Path, cases: int = 8) -> None:
    """Copy some cases of the real data set."""
    source = data / "Dataset004_Hippocampus"
    chosen = sorted(path.name for path in (source / "labelsTr").glob("*.nii.gz"))[:cases]
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for name in chosen:
        image = name.replace(".nii.gz", "_0000.nii.gz")
        shutil.copy(source / "imagesTr" / image, folder / "imagesTr")
        shutil.copy(source / "labelsTr" / name, folder / "labelsTr")
    content = json.loads((source / "dataset.json").read_text())
    write_json(folder / "dataset.json", {**content, "numTraining": cases})


def axons(folder: Path, data: Path, cases: int = 8, edge: int = 200) -> None:
    """Cut tiles out of a real microscopy image; a black hole is put into each."""
    from segkit.dataset.image_io import read_image, read_labels, write_labels

    source = data / "Dataset123_AxonMyelin"
    file = sorted((source / "labelsTr").iterdir())[0]
    labels = read_labels(file)
    image = read_image([source / "imagesTr" / f"{file.stem}_0000.png"])
    across = labels.array.shape[-1] // edge
    for case in range(cases):
        y, x = (edge * place for place in divmod(case, across))
        cut = (0, slice(None), slice(y, y + edge), slice(x, x + edge + 3 * case))
        pixels = image.array[cut].astype(np.uint8)
        pixels[:, 20:60, 30:90] = 0
        pixels[:, :25, :35] = 0
        write_labels(folder / "imagesTr" / f"c{case}_0000.png", pixels, image.geometry)
        write_labels(folder / "labelsTr" / f"c{case}.png", labels.array[cut], image.geometry)
    content = json.loads((source / "dataset.json").read_text())
    write_json(folder / "dataset.json", {**content, "numTraining": cases})


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """Made cases: a ball with a core in noise; calling it writes the data set."""

    channels: tuple[str, ...] = ("MR",)
    labels: Mapping[str, Any] = field(
        default_factory=lambda: {"background": 0, "core": 2, "shell": 1}
    )
    shape: tuple[int, int, int] = (32, 40, 36)
    spacings: tuple[tuple[float, float, float], ...] = ((1.0, 1.0, 1.0),)
    """Of the cases in turn, (z, y, x) in mm."""
    order: tuple[int, ...] | None = None
    """regions_class_order."""
    black: bool = False
    """Nothing is measured outside of an ellipsoid: zero in every channel, and at some spots."""
    ignored: int | None = None
    """Value painted over every third slice."""
    cases: int = 6
    ending: str = ".nii.gz"

    def __call__(self, folder: Path, data: Path) -> None:
        """Write the raw data set."""
        for case in range(self.cases):
            self._write(folder, case)
        content = {
            "channel_names": {str(i): name for i, name in enumerate(self.channels)},
            "labels": self.labels,
            "numTraining": self.cases,
            "file_ending": self.ending,
        }
        if self.order is not None:
            content["regions_class_order"] = list(self.order)
        write_json(folder / "dataset.json", content)

    def _write(self, folder: Path, case: int) -> None:
        from segkit.dataset.image_io import write_labels
        from segkit.types import Geometry

        rng = np.random.default_rng(case)
        spacing = self.spacings[case % len(self.spacings)]
        shape = tuple(
            int(n * s / t) for n, s, t in zip(self.shape, self.spacings[0], spacing, strict=True)
        )
        shape = tuple(n + int(rng.integers(0, 5)) for n in shape)
        axes = [np.linspace(-1, 1, n) + rng.uniform(-0.2, 0.2) for n in shape]
        distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
        distance = distance * (1 + 0.1 * rng.standard_normal(shape))
        labels = (distance < 0.7).astype(int) + (distance < 0.4)
        geometry = Geometry(spacing_mm=spacing, origin=(-7.5, 3.0, 11.0))
        for channel in range(len(self.channels)):
            grey = 300 + 200 * labels * (1 + channel) + 40 * rng.standard_normal(shape)
            image = np.clip(grey, 1, 60000).astype(np.uint16)
            if self.black:
                image[distance > 1.1] = 0
                image[1::7, 2::9, 3::8] = 0
            name = f"c{case}_{channel:04d}{self.ending}"
            write_labels(folder / "imagesTr" / name, image, geometry)
        if self.ignored is not None:
            labels[::3] = self.ignored
        write_labels(folder / "labelsTr" / f"c{case}{self.ending}", labels, geometry)


def write_json(path: Path, content: object) -> None:
    """Write JSON."""
    path.write_text(json.dumps(content, indent=1))
