"""Training several folds: one after the other, or at once on several devices.

Every fold is a process of its own, through the command line: what one leaves behind in memory, or
dies of, does not matter to the others.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from segkit import options as opt
from segkit.errors import UsageError, UserError
from segkit.options.arguments import to_arguments
from segkit.runtime import cpu_count, log, resolve_device

EVERY = ("all",)
"""What ``--folds all`` says: every fold."""
OF_ALL_CASES = ("all",)
"""The one fold that ``--fold all`` names: trained on all cases, with none left to judge it on."""
_LINES_KEPT = 30
_SEPARATE = os.name == "posix"
"""Whether a process can be kept from hearing Ctrl-C, so that it is told to stop only once."""
COMMAND = (sys.executable, "-m", "segkit", "train")


@dataclass
class Runs:
    """The processes that train folds, and how they end."""

    command: opt.Train
    """Of any fold."""
    model: Path
    waiting: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Fold -> what it said in the end."""
    stopped: bool = False


def chosen_folds(fold: str | None, folds: tuple[str, ...], every: int) -> tuple[str, ...]:
    """Return the folds that are trained, from ``--fold`` and ``--folds``; fold 0 without both.

    Args:
        fold: A single one; ``all`` is the model of all cases.
        folds: Several; ``all`` stands for every one.
        every: How many folds there are.

    Raises:
        UsageError: both are given, or ``all`` among others.
    """
    if fold is not None and folds:
        what = "--fold trains one fold (all: one model of all cases), --folds several (all: every)"
        raise UsageError(what, fix="give one of the two")
    if not folds:
        return (fold or "0",)
    if folds == EVERY:
        return tuple(str(i) for i in range(every))
    if "all" in folds:
        fix = "--folds all trains every fold; --fold all trains one model of all cases"
        raise UsageError("all among other folds", where="--folds", fix=fix)
    return tuple(dict.fromkeys(folds))


def train_folds(options: opt.Train, folds: Sequence[str], model: Path) -> None:
    """Train folds into a model folder; one that fails is named after the others are done.

    Folds that are trained already are kept, those that were interrupted go on.

    Args:
        options: Of every fold; ``devices`` says where, one fold on each at a time.
        folds: Which.
        model: The folder they are trained into.

    Raises:
        UserError: folds that failed, or a device that is not there.
        KeyboardInterrupt: after all of them have saved where they are.
    """
    devices = options.devices or (options.device,)
    for device in devices:
        resolve_device(device)
    runs = Runs(command=replace(options, folds=(), devices=()), model=model)
    for fold in folds:
        trained = (model / f"fold_{fold}" / "final.pt").exists()
        if trained and not options.overwrite and not options.resume:
            log.info("fold %s is trained already; kept (--overwrite trains it anew)", fold)
        else:
            runs.waiting.put(fold)
    threads = [
        threading.Thread(target=_train_on, args=(runs, device, len(devices))) for device in devices
    ]
    for thread in threads:
        thread.start()
    _wait(runs, threads)
    if runs.failed:
        blocks = "\n".join(f"[fold {fold}] {said}" for fold, said in sorted(runs.failed.items()))
        what = f"{len(runs.failed)} of {len(folds)} folds failed\n{blocks}"
        fix = "mend it and give the same command again: what is trained is kept"
        raise UserError(what, where=model, fix=fix)


def same_command_again(*, overwrite: bool) -> str:
    """Say how several folds go on after an interruption."""
    if not overwrite:
        return "the same command goes on"
    return (
        "the same command without --overwrite goes on; it keeps folds that were trained before, "
        "which --folds N ... --overwrite trains anew"
    )


def _wait(runs: Runs, threads: Sequence[threading.Thread]) -> None:
    """Wait for all folds; the first interruption is handed on, the second ends them at once."""
    while any(thread.is_alive() for thread in threads):
        try:
            for thread in threads:
                thread.join(timeout=0.2)
        except KeyboardInterrupt:
            again, runs.stopped = runs.stopped, True
            for process in list(runs.running.values()):
                if again:
                    process.kill()
                elif _SEPARATE:
                    process.terminate()
            log.warning("stopping all folds; once more stops at once")
    if runs.stopped:
        log.warning("interrupted; %s", same_command_again(overwrite=runs.command.overwrite))
        raise KeyboardInterrupt


def _train_on(runs: Runs, device: str, share: int) -> None:
    """Train folds on one device until none is left."""
    while not runs.stopped:
        try:
            fold = runs.waiting.get_nowait()
        except queue.Empty:
            return
        failure = _train(runs, fold, device, share)
        if failure and not runs.stopped:
            runs.failed[fold] = failure


def _train(runs: Runs, fold: str, device: str, share: int) -> str | None:
    """Train one fold, its output told line by line under its name; returns why it failed."""
    begun = (runs.model / f"fold_{fold}" / "last.pt").exists() and not runs.command.overwrite
    options = replace(runs.command, fold=fold, device=device, resume=begun, started=None)
    options = replace(options, pretrained=None) if begun else options
    said: deque[str] = deque(maxlen=_LINES_KEPT)
    log.info("fold %s: %s on %s", fold, "going on" if begun else "training", device)
    threads = {"OMP_NUM_THREADS": str(max(1, cpu_count() // share))} if share > 1 else {}
    with subprocess.Popen(
        [*COMMAND, *to_arguments(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**threads, **os.environ, "PYTHONIOENCODING": "utf-8"},
        start_new_session=_SEPARATE,
    ) as process:
        runs.running[fold] = process
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip())
            log.info("[fold %s] %s", fold, said[-1])
    del runs.running[fold]
    if not process.returncode:
        return None
    errors = [i for i, line in enumerate(said) if line.startswith("error: ")]
    last = list(said)[errors[-1] if errors else -3 :]
    return "\n".join(last) or f"ended with exit code {process.returncode}"
