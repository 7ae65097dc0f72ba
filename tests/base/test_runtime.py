"""Progress where stderr is no terminal."""

import logging

import pytest

from segkit import runtime


@pytest.mark.parametrize(
    ("total", "closing_line", "lines"),
    [
        (
            3,
            True,
            ["x: 1 of 3, 4 s left", "x: 2 of 3, 2 s left", "x: 3 of 3, 0 s left", "x: 3 of 3"],
        ),
        (3, False, ["x: 1 of 3, 4 s left", "x: 2 of 3, 2 s left", "x: 3 of 3, 0 s left"]),
        (None, True, ["x: 1 of ?", "x: 2 of ?", "x: 3 of ?", "x: 3 of 3"]),
    ],
)
def test_plain_progress_says_how_far_and_how_long(monkeypatch, caplog, total, closing_line, lines):
    seconds = iter(range(0, 100))
    monkeypatch.setattr(runtime, "SECONDS_BETWEEN_LINES", 0.5)
    monkeypatch.setattr(runtime.time, "monotonic", lambda: 1.0 * next(seconds))
    with caplog.at_level(logging.INFO, logger="segkit"):
        items = runtime.progress("abc", "x", total=total, closing_line=closing_line)
        assert list(items) == ["a", "b", "c"]
    assert [record.message for record in caplog.records] == lines
