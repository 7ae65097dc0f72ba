#!/usr/bin/env python3
"""One training step: forward, loss, backward, clipping, update; no data loading or augmentation.

    scripts/bench_step.py --peer FOLDER

Each side trains the network its own planner plans for Hippocampus (3d_fullres), on random patches,
in a process of its own: nnU-Net by its trainer's ``train_step``, segkit by its loop's. That both
are the same network and the same loss is checked with equal weights. Memory is the peak above
that of the network at rest.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarking import (
    Row,
    Sample,
    alternate,
    measured,
    median_seconds,
    parse,
    program,
    run,
    run_side,
    save,
)
from floors import arithmetic_rate

DATASET = "Dataset004_Hippocampus"
CONFIGURATION = "3d_fullres"
PRECISIONS = ("fp32", "auto")
MOST_APART = {"fp32": 1e-4, "auto": 1e-2}
"""Losses of both networks with equal weights differ by less, or they are not the same."""
WANTED = {(7, "fp32"): 1.6, (7, "auto"): 3.0}


def main() -> None:
    """Plan with both, check that they agree, and measure every batch size."""
    options = arguments()
    if options.side:
        sys.exit(SIDES[options.side](options))
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        make_plans(options)
        agreement = side(options, "agreement").result
        peaks = side(options, "peaks").result
        rows = [row for batch in options.batches for row in measure(options, batch, agreement)]
    save(options, "step", [with_floor(row, agreement, peaks) for row in rows])


def arguments() -> argparse.Namespace:
    """Read the options; the hidden ones are told to a child."""
    parser = parse(__doc__, repeats=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[7, 2], help="patches of a step")
    parser.add_argument("--steps", type=int, default=3, help="steps of each measurement")
    for name, kind in (("batch", int), ("precision", str), ("folder", Path)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_plans(options: argparse.Namespace) -> None:
    """Let both plan the data set, each with its own command."""
    env = environment(options)
    dataset = options.data / DATASET
    extract = ["nnUNetv2_extract_fingerprint", "-d", DATASET[7:10]]
    plan = ["nnUNetv2_plan_experiment", "-d", DATASET[7:10]]
    for name, *rest in (extract, plan, ["segkit", "plan", dataset, "-w", options.folder]):
        run([program(options, str(name)), *rest], env=env)


def environment(options: argparse.Namespace) -> dict[str, str]:
    """Where the peer reads and writes."""
    made = {name: str(options.folder) for name in ("nnUNet_preprocessed", "nnUNet_results")}
    return {"nnUNet_raw": str(options.data), **made}


def side(options: argparse.Namespace, name: str, **more: Any) -> Sample:
    """Run one side in a process of its own."""
    told = {"folder": options.folder, "steps": options.steps, **more}
    flags = [part for key, value in told.items() for part in (f"--{key}", value)]
    return run_side(options, name, *flags, env=environment(options))


def measure(options: argparse.Namespace, batch: int, agreement: dict[str, Any]) -> Iterator[Row]:
    """Measure a batch size: the peer once, segkit in each precision."""
    sides = {
        name: partial(side, options, "segkit", batch=batch, precision=name) for name in PRECISIONS
    }
    found = alternate({**sides, "peer": partial(side, options, "peer", batch=batch)},
                      options.repeats)  # fmt: skip
    for name in PRECISIONS:
        dtype = found[name][0].result["dtype"]
        yield Row(
            what=f"training step, batch {batch}, {dtype}",
            segkit=found[name],
            peer=found["peer"],
            wanted=WANTED.get((batch, name)),
            equal=f"{agreement['parameters']} parameters each; same weights, same batch: "
            f"losses differ by {agreement[name]:.1e}",
        )


def with_floor(row: Row, agreement: dict[str, Any], peaks: dict[str, Any]) -> Row:
    """Say how many operations a second each side reaches, of those that torch can."""
    batch, dtype = row.segkit[0].result["batch"], row.segkit[0].result["dtype"]
    work = agreement["flops"] * batch
    texts = []
    for name, samples, kind in (("segkit", row.segkit, dtype), ("nnU-Net", row.peer, "float32")):
        rate = work / sorted(sample.seconds for sample in samples)[len(samples) // 2]
        share = rate / peaks[kind]
        texts.append(f"{name} {rate / 1e9:.0f} GFLOP/s, {share:.0%} of the {kind} roof")
    floor = work / peaks[dtype]
    text = f"{work / 1e9:.0f} GFLOP a step, floor {floor:.2f} s; {'; '.join(texts)}"
    return replace(row, floor=text)


def measure_peer(options: argparse.Namespace) -> None:
    """Measure nnU-Net's ``train_step``, set up as its trainer sets itself up for the CPU."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    trainer = peer_trainer(options.folder)
    report(options, partial(trainer.train_step, peer_batch(trainer, options.batch)), "float32")


def measure_segkit(options: argparse.Namespace) -> None:
    """Measure segkit's ``train_step``, set up as the command ``train`` does."""
    import torch

    from segkit.runtime import prepare_torch
    from segkit.training.parts import Batch
    from segkit.training.step import train_step

    prepare_torch()
    parts = segkit_parts(options, options.precision)
    batch = Batch(
        *map(torch.from_numpy, patches(parts.train_loader.settings.final_size, options.batch))
    )
    step = partial(train_step, parts, [batch], 0)
    report(options, step, str(parts.precision.dtype).removeprefix("torch."))


def report(options: argparse.Namespace, step: Callable[[], object], dtype: str) -> None:
    """Take some steps and report their median."""
    with measured(dtype=dtype, batch=options.batch) as result:
        result["seconds"] = median_seconds(step, options.steps, warm_up=2)


def measure_agreement(options: argparse.Namespace) -> None:
    """Compare both with equal weights on one batch: parameters, losses, and operations a step."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    trainer, batch = peer_trainer(options.folder), 2
    data = peer_batch(trainer, batch)
    peer_loss = float(trainer.loss(trainer.network(data["data"]), data["target"]).detach())
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        parts = segkit_parts(options, precision)
        copy_weights(trainer.network, parts.network)
        image, seg = map(torch.from_numpy, patches(patch_size(trainer), batch))
        counter = FlopCounterMode(display=False)
        with counter:
            loss = parts.loss(parts.precision.forward(parts.network, image), seg)
            parts.stepper.backward(loss)
            parts.stepper.update()
        # Dice counts as 1 - Dice here and as -Dice there.
        found[precision] = abs(float(loss.detach()) - 1 - peer_loss)
        if not found[precision] < MOST_APART[precision]:
            sys.exit(f"the losses differ by {found[precision]:.1e} in {precision}")
        found["flops"] = counter.get_total_flops() / batch
    sizes = {sum(p.numel() for p in net.parameters()) for net in (parts.network, trainer.network)}
    if len(sizes) != 1:
        sys.exit(f"the networks differ: {sizes} parameters")
    with measured(**found, parameters=sizes.pop()):
        pass


def measure_peaks(options: argparse.Namespace) -> None:
    """Measure how many operations a second torch reaches here."""
    with measured(**{dtype: arithmetic_rate(dtype) for dtype in ("float32", "bfloat16")}):
        pass


SIDES = {
    "peer": measure_peer,
    "segkit": measure_segkit,
    "agreement": measure_agreement,
    "peaks": measure_peaks,
}


def peer_trainer(folder: Path) -> Any:
    """Return nnU-Net's trainer with network, optimiser and loss, but without its data loaders."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans = json.loads((folder / DATASET / "nnUNetPlans.json").read_text())
    dataset = json.loads((folder / DATASET / "dataset.json").read_text())
    plans["continue_training"] = False
    trainer = nnUNetTrainer(plans, CONFIGURATION, 0, dataset, device=torch.device("cpu"))
    configuration, heads = trainer.configuration_manager, trainer.label_manager
    trainer.network = trainer.build_network_architecture(
        trainer.plans_manager,
        configuration,
        len(dataset["channel_names"]),
        heads.num_segmentation_heads,
        trainer.enable_deep_supervision,
    )
    trainer.optimizer, _ = trainer.configure_optimizers()
    trainer.loss = trainer._build_loss()
    return trainer


def peer_batch(trainer: Any, batch: int) -> dict[str, Any]:
    """Return patches as nnU-Net's data loaders do: its targets come in all resolutions."""
    import torch
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import (
        DownsampleSegForDSTransform,
    )

    shrink = DownsampleSegForDSTransform(trainer._get_deep_supervision_scales())
    image, seg = map(torch.from_numpy, patches(patch_size(trainer), batch))
    each = [shrink(segmentation=sample)["segmentation"] for sample in seg]
    return {"data": image, "target": [torch.stack(scale) for scale in zip(*each, strict=True)]}


def patch_size(trainer: Any) -> tuple[int, ...]:
    """Return the patch size that nnU-Net planned."""
    return tuple(trainer.configuration_manager.patch_size)


def patches(size: tuple[int, ...], batch: int) -> tuple[Any, Any]:
    """Return random patches with a random segmentation into three classes."""
    import numpy as np

    rng = np.random.default_rng(0)
    image = rng.standard_normal((batch, 1, *size), dtype=np.float32)
    return image, rng.integers(0, 3, (batch, 1, *size)).astype(np.int16)


def segkit_parts(options: argparse.Namespace, precision: str) -> Any:
    """Return what segkit's loop uses, without augmentation."""
    import torch

    from segkit.config import Recipe
    from segkit.dataset.description import load_description
    from segkit.dataset.splits import Split
    from segkit.planning.plan import load_plan
    from segkit.training.setup import build_parts
    from segkit.training.task import TrainingTask
    from segkit.workspace import Workspace

    task = TrainingTask(
        plan=load_plan(Workspace(folder=options.folder / DATASET).plan("default")),
        configuration=CONFIGURATION,
        schema=load_description(options.data / DATASET).labels,
        split=Split(train=("case",), val=("case",)),
        fold=0,
        recipe=Recipe(precision=precision),
    )
    parts = build_parts(task, None, torch.device("cpu"))
    return replace(parts, augment=lambda image, seg, generator: (image, seg))


def copy_weights(peer: Any, network: Any) -> None:
    """Give segkit's network the peer's weights: both list them in the order of their layers."""
    import torch

    theirs = {
        "encoder": "encoder",
        "decoder.stages": "decoder.stages",
        "decoder.upsamplings": "decoder.transpconvs",
        "decoder.heads": "decoder.seg_layers",
    }
    with torch.no_grad():
        for name, other in theirs.items():
            values = peer.get_submodule(other).parameters()
            for target, value in zip(network.get_submodule(name).parameters(), values, strict=True):
                target.copy_(value)


if __name__ == "__main__":
    main()
