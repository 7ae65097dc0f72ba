#!/usr/bin/env python3
"""A whole epoch of training: loading, augmentation, steps, and patches to validate on.

    scripts/bench_epoch.py --peer FOLDER [--device cuda] [--tasks hippocampus brain]

Both plan, preprocess and train the same data set, each by its default plan and recipe, in a process
of its own. Reported is the last of a few short epochs; the first ones warm up (worker processes,
compilation). An epoch has one validation patch for five training patches, as nnU-Net's has.
``brain`` is made up: four channels whose plan has large patches, for computers with a GPU. What
limits each side is told by its own share of waiting for data and by how busy the GPU was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarking import Row, Sample, alternate, measured, parse, program, run, run_side, save
from peer_datasets import Phantom

CONFIGURATION = "3d_fullres"
FILES = ("nnUNetPlans", "dataset")
EPOCHS = 3
TRAINING_PER_VALIDATION = 5
WANTED_ON_GPU = 1.5


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set to train on."""

    dataset: str
    phantom: Phantom | None = None
    """Makes it; None for a real one."""


TASKS = {
    "hippocampus": Task(dataset="Dataset004_Hippocampus"),
    "brain": Task(
        dataset="Dataset901_Brain",
        phantom=Phantom(
            channels=("T1", "T1c", "T2", "FLAIR"), shape=(140, 170, 138), black=True, cases=10
        ),
    ),
}


def main() -> None:
    """Prepare every task with both, and measure its epochs in turn."""
    options = arguments()
    if options.side:
        sys.exit(SIDES[options.side](options))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        for name in options.tasks:
            prepare(options, TASKS[name])
            rows.append(measure(options, name))
    save(options, "epoch", rows, f"The last of {EPOCHS} epochs; {options.device}.")


def arguments() -> argparse.Namespace:
    """Read the options; the hidden one is told to a child."""
    parser = parse(__doc__, repeats=2)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["hippocampus"])
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--iterations", type=int, default=10, help="training steps of an epoch (nnU-Net has 250)"
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def validation_steps(options: argparse.Namespace) -> int:
    """Batches to validate on in an epoch."""
    return -(-options.iterations // TRAINING_PER_VALIDATION)


def environment(folder: Path, raw: Path) -> dict[str, str]:
    """Where the peer reads and writes."""
    made = {name: str(folder / name) for name in ("nnUNet_preprocessed", "nnUNet_results")}
    return {"nnUNet_raw": str(raw), **made}


def raw_folder(options: argparse.Namespace, task: Task) -> Path:
    """Folder of raw data sets that holds the one of a task."""
    return options.data if task.phantom is None else options.folder / "raw"


def prepare(options: argparse.Namespace, task: Task) -> None:
    """Let both plan and preprocess, each with its own command."""
    raw = raw_folder(options, task)
    if task.phantom is not None:
        run_side(options, "phantom", *told(options), "--task", named(task))
    env = environment(options.folder, raw)
    peer = ("nnUNetv2_plan_and_preprocess", "-d", task.dataset[7:10], "-c", CONFIGURATION)
    where = ("-c", CONFIGURATION, "-w", options.folder)
    own = ("segkit", "plan_and_preprocess", raw / task.dataset, *where)
    for name, *rest in (peer, own):
        run([program(options, str(name)), *rest], env=env)


def named(task: Task) -> str:
    """Name of a task among all."""
    return next(name for name, other in TASKS.items() if other is task)


def told(options: argparse.Namespace) -> list[object]:
    """Options that every child is given."""
    shared = ("folder", "iterations", "device")
    return [part for name in shared for part in (f"--{name}", getattr(options, name))]


def measure(options: argparse.Namespace, name: str) -> Row:
    """Measure both sides in turn."""
    env = environment(options.folder, raw_folder(options, TASKS[name]))
    given = (*told(options), "--task", name)
    sides = {side: partial(run_side, options, side, *given, env=env) for side in ("segkit", "peer")}
    found = alternate(sides, options.repeats)
    batch, patch = (found["segkit"][0].result[key] for key in ("batch", "patch"))
    if (batch, patch) != tuple(found["peer"][0].result[key] for key in ("batch", "patch")):
        sys.exit(f"{name}: the plans differ")
    size = "x".join(map(str, patch))
    return Row(
        what=f"{name}: epoch of {options.iterations} steps, batch {batch}, {size}",
        segkit=found["segkit"],
        peer=found["peer"],
        wanted=None if options.device == "cpu" else WANTED_ON_GPU,
        equal="patch and batch are equal",
        floor="; ".join(f"{side}: {bound(samples)}" for side, samples in found.items()),
    )


def bound(samples: tuple[Sample, ...]) -> str:
    """Say what an epoch was spent on."""
    last = samples[-1].result
    words = [last["dtype"]]
    words += [f"{last['wait']:.0%} waiting for data"] if last.get("wait") is not None else []
    words += [f"GPU busy {last['busy']:.0%}"] if last.get("busy") is not None else []
    return ", ".join(words)


def make_phantom(options: argparse.Namespace) -> None:
    """Write the made-up data set."""
    task = TASKS[options.task]
    assert task.phantom is not None
    folder = options.folder / "raw" / task.dataset
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with measured():
        task.phantom(folder, options.data)


def measure_segkit(options: argparse.Namespace) -> None:
    """Train by the command's own function; the log has the time of every epoch."""
    import segkit

    task = TASKS[options.task]
    settings = {
        "schedule.epochs": EPOCHS,
        "schedule.iterations_per_epoch": options.iterations,
        "schedule.validation_iterations": validation_steps(options),
        "final_validation": False,
        # As in a run of the default length.
        "compile": "auto" if options.device == "cpu" else "on",
    }
    raw = raw_folder(options, task) / task.dataset
    with measured() as result, watched_gpu(options.device) as gpu:
        fold = segkit.train(
            raw,
            CONFIGURATION,
            workdir=options.folder,
            settings=settings,
            device=options.device,
            overwrite=True,
        )
        ended = (fold / "log.jsonl").stat().st_mtime
        last = json.loads((fold / "log.jsonl").read_text().splitlines()[-1])
        plan = json.loads((fold.parent / "plan.json").read_text())["configurations"][CONFIGURATION]
        result |= {
            "seconds": last["seconds"],
            "wait": last["data_wait_share"],
            "busy": gpu.busy(ended - last["seconds"], ended),
            "batch": plan["batch_size"],
            "patch": plan["patch_size"],
            "dtype": "default precision",
        }


def measure_peer(options: argparse.Namespace) -> None:
    """Train with nnU-Net's trainer, as its command does but for the length of the epochs."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    made = options.folder / "nnUNet_preprocessed" / TASKS[options.task].dataset
    plans, dataset = (json.loads((made / f"{name}.json").read_text()) for name in FILES)
    plans["continue_training"] = False
    trainer = nnUNetTrainer(plans, CONFIGURATION, 0, dataset, device=device)
    trainer.num_epochs, trainer.num_iterations_per_epoch = EPOCHS, options.iterations
    trainer.num_val_iterations_per_epoch = validation_steps(options)
    with measured() as result, watched_gpu(options.device) as gpu:
        trainer.run_training()
        begun, ended = (
            trainer.logger.get_value(f"epoch_{which}_timestamps", step=-1)
            for which in ("start", "end")
        )
        configuration = trainer.configuration_manager
        result |= {
            "seconds": ended - begun,
            "busy": gpu.busy(begun, ended),
            "batch": configuration.batch_size,
            "patch": list(configuration.patch_size),
            "dtype": "float32" if device.type == "cpu" else "float16 autocast, compiled",
        }


@dataclass
class Gpu:
    """How busy a GPU was, several times a second."""

    seen: list[tuple[float, float]] = field(default_factory=list)
    """Time, and busy share of the last while."""

    def busy(self, begun: float, ended: float) -> float | None:
        """Mean share between two times; None without a GPU."""
        shares = [share for when, share in self.seen if begun <= when <= ended]
        return sum(shares) / len(shares) if shares else None


@contextmanager
def watched_gpu(device: str) -> Iterator[Gpu]:
    """Watch the GPU while the block runs."""
    gpu = Gpu()
    if device == "cpu":
        yield gpu
        return
    query = ("--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200")
    index = device.partition(":")[2] or "0"
    command = ["nvidia-smi", *query, "-i", index]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                gpu.seen.append((time.time(), float(line) / 100))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield gpu
        finally:
            process.terminate()
            reader.join()


SIDES: dict[str, Any] = {"phantom": make_phantom, "segkit": measure_segkit, "peer": measure_peer}


if __name__ == "__main__":
    main()
