#!/usr/bin/env python3
"""Augmentation: from sampled patches in memory to what the network is given, on one thread.

    scripts/bench_augment.py --peer FOLDER

nnU-Net runs the transforms its trainer sets up, one patch at a time as its workers do; segkit
augments batches. Both start from the same patches of real images and end with the segmentation in
all resolutions of deep supervision. Times are per patch; memory is above that of the patches.
Random numbers differ, so that only the distributions of the results are compared: the share of the
foreground and the mean and deviation of the intensities, over all patches of all repeats.
"""

import argparse
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarking import Row, Sample, alternate, measured, parse, run_side, save
from floors import copy_rate, floor_of_moving

SAMPLES = 12
"""Different patches, at most, that are gone through again and again."""

DISTRIBUTION = ("foreground", "mean", "deviation")
"""What is compared of the results, which random numbers make different."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of patch to augment."""

    dataset: str
    patch: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    batch: int
    channels: int = 1
    masked: bool = False
    """Whether images are zero outside of the object, and are kept so."""


TASKS = {
    "3D, small": Task(
        dataset="Dataset004_Hippocampus", patch=(40, 56, 40), spacing_mm=(1, 1, 1), batch=7
    ),
    "3D, 4 channels": Task(
        dataset="Dataset110_BraTS2015",
        patch=(128, 128, 128),
        spacing_mm=(1, 1, 1),
        batch=2,
        channels=4,
        masked=True,
    ),
    "2D": Task(dataset="Dataset123_AxonMyelin", patch=(512, 512), spacing_mm=(1, 1), batch=12),
    "3D, thick slices": Task(
        dataset="Dataset132_SpleenCropMSD",
        patch=(24, 160, 160),
        spacing_mm=(5, 0.79, 0.79),
        batch=2,
    ),
}


def main() -> None:
    """Measure every task."""
    options = arguments()
    if options.side:
        sys.exit(SIDES[options.side](options))
    rows = [measure(options, name) for name in options.tasks]
    save(options, "augment", rows, "Patches are sampled larger than they end, as nnU-Net does.")


def arguments() -> argparse.Namespace:
    """Read the options; the hidden ones are told to a child."""
    parser = parse(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--threads", type=int, default=1, help="of each side")
    parser.add_argument("--seconds", type=float, default=6, help="length of a measurement")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace, name: str) -> Row:
    """Measure both sides, with other random numbers every time."""
    task, seeds = TASKS[name], itertools.count()
    told = ["--task", name, "--threads", options.threads, "--seconds", options.seconds]
    sides = {
        side: lambda side=side: run_side(options, side, *told, "--seed", next(seeds))
        for side in ("segkit", "peer")
    }
    found = alternate(sides, options.repeats)
    size = "x".join(map(str, task.patch))
    return Row(
        what=f"{name}: {size}, {task.channels} channels, {options.threads} threads, per patch",
        segkit=found["segkit"],
        peer=found["peer"],
        wanted=4,
        equal=agreement(found),
        floor=floor_of_moving(found["segkit"][0].result["moved"], copy_rate(options.threads)),
    )


def agreement(found: dict[str, tuple[Sample, ...]]) -> str:
    """Tell the distributions of both sides' results, segkit's first."""

    def mean(side: str, key: str) -> float:
        return statistics.mean(sample.result[key] for sample in found[side])

    pairs = [f"{key} {mean('segkit', key):.4f} / {mean('peer', key):.4f}" for key in DISTRIBUTION]
    return ", ".join(pairs)


def measure_peer(options: argparse.Namespace) -> None:
    """Measure the transforms of nnU-Net's trainer."""
    import numpy as np
    import torch

    task = TASKS[options.task]
    prepare(options)
    transforms, sampled = peer_transforms(task)
    samples = list(zip(*map(torch.from_numpy, patches(options.data, task, sampled)), strict=True))
    np.random.seed(options.seed)
    torch.manual_seed(options.seed)
    warm_up_blur(transforms, samples[0][0])
    # It changes what it is given, so that what the results are compared by starts from copies.
    order, unchanged = (
        itertools.cycle([(i.clone(), s) for i, s in samples]),
        itertools.cycle(samples),
    )

    def augment(*, fresh: bool = False) -> tuple[Any, Any]:
        image, seg = next(unchanged if fresh else order)
        image = image.clone() if fresh else image
        result = transforms(image=image, segmentation=seg)
        return result["image"][None], result["segmentation"][0][None]

    report(options, augment, 1, len(samples))


def measure_segkit(options: argparse.Namespace) -> None:
    """Measure segkit's augmenter, and what its loss does to the segmentation afterwards."""
    import torch

    from segkit.config import AugmentConfig
    from segkit.training.augment import Augmenter, sampled_patch_size, spatial_settings
    from segkit.training.targets import resize_segmentation

    task, config = TASKS[options.task], AugmentConfig()
    prepare(options)
    settings = spatial_settings(task.patch, config)
    augmenter = Augmenter(config, settings, (task.masked,) * task.channels)
    images, segs = map(
        torch.from_numpy, patches(options.data, task, sampled_patch_size(settings, config))
    )
    batches = list(zip(images.split(task.batch), segs.split(task.batch), strict=True))
    order = itertools.cycle(batches)
    generator = torch.Generator().manual_seed(options.seed)
    sizes = [
        [round(n * s) for n, s in zip(task.patch, scale, strict=True)] for scale in scales(task)
    ]

    def augment(*, fresh: bool = False) -> tuple[Any, Any]:
        image, seg = augmenter(*next(order), generator)
        for size in sizes:
            resize_segmentation(seg, size)
        return image, seg

    read, written = math.prod(segs.shape[2:]), math.prod(task.patch) + sum(map(math.prod, sizes))
    # float32 and int16; the resolutions of deep supervision are of the segmentation alone.
    moved = (4 * task.channels + 2) * read + 4 * task.channels * math.prod(task.patch) + 2 * written
    report(options, augment, task.batch, len(batches), moved=moved)


SIDES = {"peer": measure_peer, "segkit": measure_segkit}


def prepare(options: argparse.Namespace) -> None:
    """Set the number of threads, and what segkit sets up for every command that trains."""
    import torch

    from segkit.runtime import prepare_torch

    if options.side == "segkit":
        prepare_torch()
    torch.set_num_threads(options.threads)


def report(
    options: argparse.Namespace,
    augment: Callable[..., tuple[Any, Any]],
    count: int,
    rounds: int,
    **more: Any,
) -> None:
    """Augment ``count`` patches a time for a while, after a few times that do not count.

    Reports the time per patch, the distribution of the results of half as long again, in whole
    ``rounds`` through all patches, and ``more``.
    """
    # What the first rounds take belongs to the memory, for it is kept; their time does not count.
    with measured(**more) as result:
        for _ in range(3):
            augment()
        begun, done = time.perf_counter(), 0
        while (passed := time.perf_counter() - begun) < options.seconds:
            augment()
            done += count
        result["seconds"] = passed / done
        found: list[tuple[float, ...]] = []
        while not found or time.perf_counter() - begun < 1.5 * options.seconds:
            for _ in range(rounds):
                found += distribution(*augment(fresh=True))
        for key, values in zip(DISTRIBUTION, zip(*found, strict=True), strict=True):
            result[key] = statistics.mean(values)


def distribution(image: Any, seg: Any) -> Iterator[tuple[float, ...]]:
    """Share of the foreground, mean and deviation of the intensities of every patch."""
    for one, labels in zip(image, seg, strict=True):
        yield float((labels > 0).float().mean()), float(one.mean()), float(one.std())


def peer_transforms(task: Task) -> tuple[Any, tuple[int, ...]]:
    """Return nnU-Net's own training transforms, and the size of patch it samples for them."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    trainer = SimpleNamespace(
        configuration_manager=SimpleNamespace(patch_size=task.patch),
        print_to_log_file=lambda *_: None,
    )
    configure = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size
    rotation, dummy_2d, sampled, mirror_axes = configure(trainer)
    transforms = nnUNetTrainer.get_training_transforms(
        task.patch,
        rotation,
        scales(task),
        mirror_axes,
        dummy_2d,
        use_mask_for_norm=[task.masked] * task.channels,
    )
    return transforms, tuple(int(n) for n in sampled)


def scales(task: Task) -> list[list[float]]:
    """Return the resolutions of deep supervision, as nnU-Net plans and trains them."""
    import numpy as np
    from nnunetv2.experiment_planning.experiment_planners.network_topology import (
        get_pool_and_conv_props,
    )

    strides = get_pool_and_conv_props(task.spacing_mm, task.patch, 4, 999999)[1]
    return [list(scale) for scale in 1 / np.cumprod(np.vstack(strides), axis=0)][:-1]


def warm_up_blur(transforms: Any, image: Any) -> None:
    """Let nnU-Net's blur find out which way is faster, which it does for every kernel it meets."""
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform

    spatial, *_ = (t for t in transforms.transforms if hasattr(t, "patch_size"))
    for transform in transforms.transforms:
        inner = getattr(transform, "transform", None)
        if isinstance(inner, GaussianBlurTransform):
            part = image[:1][(..., *(slice(n) for n in spatial.patch_size))].clone()
            for _ in range(40):
                inner(image=part.clone())


def patches(data: Path, task: Task, size: tuple[int, ...]) -> tuple[Any, Any]:
    """Cut patches around voxels of the foreground: images (n, C, *size), labels (n, 1, *size)."""
    import numpy as np

    from segkit.training.patches import cut

    rng = np.random.default_rng(0)
    cases = list(itertools.islice(read(data / task.dataset, task), SAMPLES))
    images, segs = [], []
    for image, seg in itertools.islice(itertools.cycle(cases), SAMPLES - SAMPLES % task.batch):
        centre = rng.choice(np.argwhere(seg[0] > 0))
        lower = centre - np.asarray(size) // 2
        images.append(cut(image, lower, size, 0))
        segs.append(cut(seg, lower, size, -1))
    return np.stack(images), np.stack(segs)


def read(folder: Path, task: Task) -> Iterator[tuple[Any, Any]]:
    """Read normalised images (C, *S) float32 and labels (1, *S) int16."""
    import numpy as np
    from SimpleITK import GetArrayFromImage, ReadImage

    for label in sorted((folder / "labelsTr").iterdir()):
        case, ending = label.name.split(".", 1)
        files = sorted((folder / "imagesTr").glob(f"{case}_????.{ending}"))
        read_one = [GetArrayFromImage(ReadImage(str(file))) for file in files]
        # Data sets with fewer channels than the task repeat them.
        image = np.stack(
            [next(c) for c in [itertools.cycle(read_one)] for _ in range(task.channels)]
        )
        image = image.astype(np.float32)
        seg = GetArrayFromImage(ReadImage(str(label))).astype(np.int16)[None]
        if task.masked:
            seg[(image == 0).all(0, keepdims=True) & (seg == 0)] = -1
        axes = tuple(range(1, image.ndim))
        yield (image - image.mean(axes, keepdims=True)) / image.std(axes, keepdims=True), seg


if __name__ == "__main__":
    main()
