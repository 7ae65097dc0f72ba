"""What happens after every epoch: a log line, a checkpoint, a line for the reader."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segkit.checkpoint import save_checkpoint
from segkit.config import ScheduleConfig
from segkit.files import write_text
from segkit.runtime import log
from segkit.training.loop import Hook
from segkit.training.parts import TrainingParts
from segkit.training.state import EpochRecord, TrainingState

LISTED = 8
"""Most targets of which the line of an epoch names each."""
LOWEST = 3
"""Of more targets it names the lowest."""


def weights_content(parts: TrainingParts, state: TrainingState) -> dict[str, Any]:
    """What predicts, in ``network``: averaged weights where there are any."""
    return {"network": parts.evaluated.state_dict(), "state": state.content()}


def checkpoint_content(parts: TrainingParts, state: TrainingState) -> dict[str, Any]:
    """Everything needed to go on training: tensors and plain values."""
    content = {
        **weights_content(parts, state),
        "optimizer": parts.stepper.optimizer.state_dict(),
        "scaler": parts.stepper.scaler.state_dict(),
    }
    if parts.average is not None:
        content["trained_network"] = parts.network.state_dict()
        content["average"] = parts.average.state_dict()
    return content


def restore(parts: TrainingParts, content: dict[str, Any]) -> TrainingState:
    """Put a checkpoint's weights and optimiser into ``parts``; returns its state."""
    parts.network.load_state_dict(content.get("trained_network", content["network"]))
    if parts.average is not None:
        parts.average.load_state_dict(content["average"], content["network"])
    parts.stepper.optimizer.load_state_dict(content["optimizer"])
    if content["scaler"]:
        parts.stepper.scaler.load_state_dict(content["scaler"])
    return TrainingState(**content["state"])


def log_writer(path: Path, state: TrainingState) -> Hook:
    """Append a JSON line an epoch; lines of epochs that will be trained again are dropped.

    So is what a killed process left of a line.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if _epoch(line) <= state.epoch]
    write_text(path, "".join(f"{line}\n" for line in kept))

    def append(_: TrainingState, record: EpochRecord) -> None:
        with path.open("a") as stream:
            stream.write(json.dumps(asdict(record), allow_nan=False) + "\n")

    return append


def _epoch(line: str) -> float:
    try:
        return int(json.loads(line)["epoch"])
    except ValueError:
        return float("inf")


def checkpointer(folder: Path, parts: TrainingParts, schedule: ScheduleConfig) -> Hook:
    """Write best.pt when the smoothed Dice is a new best, last.pt every few minutes."""
    last_saved = float("-inf")

    def save(state: TrainingState, _: EpochRecord) -> None:
        nonlocal last_saved
        if state.best_epoch == state.epoch:
            save_checkpoint(folder / "best.pt", weights_content(parts, state))
        if time.monotonic() - last_saved >= 60 * schedule.checkpoint_every_minutes:
            save_checkpoint(folder / "last.pt", checkpoint_content(parts, state))
            last_saved = time.monotonic()

    return save


def reporter(epochs: int | None) -> Hook:
    """Tell the reader how it goes, one line an epoch; ``epochs`` is None under a time budget."""

    def tell(_: TrainingState, record: EpochRecord) -> None:
        log.info(
            "epoch %d%s  loss %.4f  val %s  dice %s  %.1f s (%.0f%% waiting)  ETA %s",
            record.epoch,
            f"/{epochs}" if epochs else "",
            record.train_loss,
            "n/a" if record.validation_loss is None else f"{record.validation_loss:.4f}",
            describe_dice(record.dice) if _validated(record) else "n/a",
            record.seconds,
            100 * record.data_wait_share,
            _duration(record.eta_seconds),
        )

    return tell


def _validated(record: EpochRecord) -> bool:
    """Whether there were patches to validate on; their loss alone may be no number."""
    return record.validation_loss is not None or record.mean_dice is not None


def describe_dice(dice: Mapping[str, float | None]) -> str:
    """Name every value; of many targets only the mean, the lowest ones and how many are absent."""
    seen = {name: value for name, value in dice.items() if value is not None}
    words = {name: f"{name} n/a (absent)" for name in dice}
    words |= {name: f"{name} {value:.3f}" for name, value in seen.items()}
    if len(dice) <= LISTED:
        return ", ".join(words.values())
    parts = []
    if seen:
        mean = sum(seen.values()) / len(seen)
        lowest = ", ".join(words[name] for name in sorted(seen, key=seen.__getitem__)[:LOWEST])
        parts.append(f"mean {mean:.3f} of {len(seen)} targets, lowest: {lowest}")
    if absent := len(dice) - len(seen):
        parts.append(f"{absent} n/a (absent)")
    return "; ".join(parts)


def throttled(action: Callable[[], None], *, seconds: float) -> Hook:
    """Run ``action`` after an epoch, but not more often than every ``seconds``."""
    last = float("-inf")

    def run(_: TrainingState, __: EpochRecord) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            action()
            last = time.monotonic()

    return run


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
