"""The progress picture of a training run, from its log.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from segkit.files import atomic_write


def draw_progress(fold: Path) -> None:
    """Draw ``progress.png`` beside ``log.jsonl``: loss, online Dice and learning rate by epoch.

    Epochs in which a class was absent leave a gap in its line. Nothing is drawn before the first
    epoch is logged.
    """
    lines = (fold / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    if not records:
        return
    figure = Figure(figsize=(9, 9), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    loss, dice, rate = figure.subplots(3, 1, sharex=True)
    _draw_losses(loss, records)
    _draw_dice(dice, records)
    rate.plot(*_series(records, "learning_rate"), color="black")
    rate.set(ylabel="learning rate", xlabel="epoch")
    with atomic_write(fold / "progress.png") as stream:
        canvas.print_png(stream)


def _draw_losses(axes: Any, records: list[dict[str, Any]]) -> None:
    axes.plot(*_series(records, "train_loss"), label="training")
    axes.plot(*_series(records, "validation_loss"), label="validation")
    axes.set(ylabel="Dice + cross-entropy loss")
    axes.legend()


def _draw_dice(axes: Any, records: list[dict[str, Any]]) -> None:
    epochs = [record["epoch"] for record in records]
    for name in records[-1]["dice"]:
        axes.plot(epochs, [_gap(record["dice"].get(name)) for record in records], label=name)
    axes.plot(*_series(records, "ema_dice"), label="smoothed mean", color="black", linestyle=":")
    axes.set(ylabel="Dice on validation patches", ylim=(0, 1))
    if len(records[-1]["dice"]) <= 12:
        axes.legend()


def _series(records: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    return [record["epoch"] for record in records], [_gap(record[key]) for record in records]


def _gap(value: float | None) -> float:
    return float("nan") if value is None else value
