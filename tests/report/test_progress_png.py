"""The progress picture is drawn from the log, gaps and all."""

import json

from segkit.report.progress_png import draw_progress

RECORD = {
    "train_loss": 1.0,
    "validation_loss": None,
    "learning_rate": 0.01,
    "ema_dice": None,
    "dice": {"a": 0.5, "<b>": None},
}


def test_a_png_is_drawn(tmp_path):
    lines = [json.dumps({"epoch": epoch, **RECORD}) for epoch in (1, 2)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    draw_progress(tmp_path)
    assert (tmp_path / "progress.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_nothing_is_drawn_before_the_first_epoch(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    draw_progress(tmp_path)
    assert not (tmp_path / "progress.png").exists()
