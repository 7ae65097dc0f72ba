#!/usr/bin/env python3
"""Export: logits of many classes to a label map, in process, against nnU-Net's.

scripts/bench_export.py --peer FOLDER

Two kinds of logits: noise, where neighbouring voxels never agree, and overlapping balls with a
little noise, which look like what a network says. The logits exist before the start.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from benchmarking import Row, Sample, alternate, measured, median_seconds, parse, run_side, save
from floors import copy_rate, floor_of_moving
from scipy import ndimage

Call = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]

MOST_APART = 1e-4
"""Where label maps differ, the logits that decide must be equal but for rounding."""
SPACING_MM, STORED_SPACING_MM = (1.25, 1.25, 1.25), (1.0, 1.0, 1.0)


def main() -> None:
    """Measure classes and regions, few and many, noise and balls."""
    parser = parse(__doc__, repeats=3)
    parser.add_argument("--shape", type=int, nargs=3, default=(100, 160, 160), help="of the logits")
    parser.add_argument("--stored", type=int, nargs=3, default=(125, 200, 200), help="of the file")
    parser.add_argument("--classes", type=int, nargs="+", default=(30, 120))
    parser.add_argument(
        "--kinds", nargs="+", default=("balls", "noise"), choices=("balls", "noise")
    )
    parser.add_argument("--regions", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--saved", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        _measure_side(options)
        return
    cases = [(n, kind, False) for n in options.classes for kind in options.kinds]
    cases.append((min(options.classes), "balls", True))
    save(options, "export", [_row(options, *case) for case in cases], *_notes(options))


def _notes(options: argparse.Namespace) -> list[str]:
    shape, stored = ("x".join(map(str, s)) for s in (options.shape, options.stored))
    return [f"float32 logits {shape} to a label map {stored}; time of the second call in a process"]


def _row(options: argparse.Namespace, classes: int, kind: str, regions: bool) -> Row:
    what = f"{classes} {'regions' if regions else 'classes'}, {kind}"
    print(what, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        measure = partial(_sample, options, classes, kind, regions, Path(folder))
        sides = {name: partial(measure, name) for name in ("segkit", "peer")}
        found = alternate(sides, options.repeats)
        ours, theirs = (np.load(Path(folder) / f"{name}.npy") for name in sides)
    differ = np.argwhere(ours != theirs)
    apart = _apart(options, classes, kind, regions, (ours, theirs)) if len(differ) else 0.0
    if apart > MOST_APART:
        sys.exit(f"{what}: label maps differ where logits are {apart:.1e} apart")
    many = classes > 100
    return Row(
        what=what,
        segkit=found["segkit"],
        peer=found["peer"],
        wanted=None if regions else 15 if many else 8,
        wanted_memory=None if regions else 8,
        equal=f"{len(differ)} of {ours.size} voxels differ, by logits {apart:.1e} apart",
        # Logits in float32 and labels in int16.
        floor=floor_of_moving(4 * classes * math.prod(options.shape) + 2 * ours.size, copy_rate()),
    )


def _apart(
    options: argparse.Namespace,
    classes: int,
    kind: str,
    regions: bool,
    maps: tuple[np.ndarray, np.ndarray],
) -> float:
    """Return how far the logits that decide are apart, at most, where two label maps differ."""
    voxels = np.argwhere(maps[0] != maps[1])
    places = (voxels + 0.5) * (np.array(options.shape) / np.array(options.stored)) - 0.5
    logits = _logits(classes, tuple(options.shape), kind)
    values = np.stack(
        [ndimage.map_coordinates(c, places.T, order=1, mode="nearest") for c in logits]
    )
    if regions:
        return float(np.abs(values).min(axis=0).max())
    chosen = [values[m[tuple(voxels.T)], np.arange(len(voxels))] for m in maps]
    return float(np.abs(chosen[0] - chosen[1]).max())


def _sample(
    options: argparse.Namespace, classes: int, kind: str, regions: bool, folder: Path, side: str
) -> Sample:
    arguments = ["--classes", classes, "--kinds", kind, "--saved", folder / f"{side}.npy"]
    arguments += ["--shape", *options.shape, "--stored", *options.stored]
    return run_side(options, side, *arguments, *(["--regions"] if regions else []))


def _measure_side(options: argparse.Namespace) -> None:
    prepare = {"segkit": _segkit, "peer": _peer}[options.side]
    call = prepare(options, options.classes[0])
    call(_logits(options.classes[0], (8, 8, 8), "noise"), (10, 10, 10))
    logits = _logits(options.classes[0], tuple(options.shape), options.kinds[0])
    stored = tuple(options.stored)
    with measured() as report:
        np.save(options.saved, call(logits, stored))
        report["seconds"] = median_seconds(lambda: call(logits, stored), 1, warm_up=0)


def _logits(classes: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Return (classes, Z, Y, X) float32."""
    generator = np.random.default_rng(0)
    logits = np.empty((classes, *shape), dtype=np.float32)
    for channel in logits:
        generator.standard_normal(out=channel, dtype=np.float32)
    if kind == "noise":
        return logits
    logits *= 0.05
    grid = np.ogrid[tuple(slice(0, size) for size in shape)]
    for channel in logits[1:]:
        centre, radius = generator.uniform(0, shape), generator.uniform(0.05, 0.2) * max(shape)
        squares = sum(
            np.square(axis - c, dtype=np.float32) for axis, c in zip(grid, centre, strict=True)
        )
        channel += np.clip(radius - np.sqrt(squares), -10, 10)
    return logits


def _segkit(options: argparse.Namespace, classes: int) -> Call:
    """Return a function (logits, stored shape) -> label map, as prediction calls it."""
    import torch

    from segkit.dataset.labels import LabelClass, LabelSchema, Region
    from segkit.inference.export import logits_to_segmentation
    from segkit.preprocessing.pipeline import CaseRecord
    from segkit.runtime import prepare_torch
    from segkit.types import Geometry

    prepare_torch()
    count = classes if options.regions else classes - 1
    names = tuple(LabelClass(name=f"c{value}", value=value) for value in range(1, count + 1))
    regions = tuple(
        Region(name=f"r{i}", members=tuple(range(i, count + 1)), paint=i)
        for i in range(1, count + 1)
    )
    schema = LabelSchema(classes=names, regions=regions if options.regions else ())

    def call(logits: np.ndarray, stored: tuple[int, ...]) -> np.ndarray:
        record = CaseRecord(
            geometry=Geometry(spacing_mm=STORED_SPACING_MM),
            orientation=None,
            transpose_forward=(0, 1, 2),
            shape_stored=stored,
            shape_before_crop=stored,
            bbox=tuple((0, size) for size in stored),
            shape_after_crop=stored,
            shape_resampled=logits.shape[1:],
            spacing_mm=STORED_SPACING_MM,
            spacing_resampled_mm=SPACING_MM,
        )
        tensor = torch.from_numpy(logits)
        return schema.decode(logits_to_segmentation(tensor, record, schema, None)[0])

    return call


def _peer(options: argparse.Namespace, classes: int) -> Call:
    """Return a function (logits, stored shape) -> label map, as nnU-Net's export calls it."""
    import torch
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape,
    )
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

    count = classes if options.regions else classes - 1
    values = range(1, count + 1)
    labels = {f"c{i}": list(range(i, count + 1)) if options.regions else i for i in values}
    manager = LabelManager({"background": 0, **labels}, list(values) if options.regions else None)
    plans = PlansManager({"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]})
    configuration = ConfigurationManager(
        {
            "architecture": {},
            "spacing": list(SPACING_MM),
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": {
                "is_seg": False,
                "order": 1,
                "order_z": 0,
                "force_separate_z": None,
            },
        }
    )

    def call(logits: np.ndarray, stored: tuple[int, ...]) -> np.ndarray:
        properties = {
            "spacing": list(STORED_SPACING_MM),
            "shape_before_cropping": stored,
            "shape_after_cropping_and_before_resampling": stored,
            "bbox_used_for_cropping": [[0, size] for size in stored],
        }
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            torch.from_numpy(logits),
            plans,
            configuration,
            manager,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )

    return call


if __name__ == "__main__":
    main()
