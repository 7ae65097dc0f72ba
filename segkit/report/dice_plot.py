"""The Dice of every case as a picture: SVG that stands inside an HTML page."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from unicodedata import east_asian_width

import numpy as np

_LEFT, _RIGHT, _ROW, _FOOT = 270, 20, 34, 40
_WIDTH = 900
"""Pixels: left of the axis (names), right of it, a row, below the rows (numbers), all."""
_LONGEST = 36
"""Letters of a name that fit; a wide one (Chinese, Japanese, Korean) takes the place of two."""
STYLE = """
svg { max-width: 100%; height: auto; font-size: 13px }
svg .grid { stroke: #ddd } svg .box { fill: #cfe0f0 }
svg .median { stroke: #1f4e79; stroke-width: 2 } svg circle { fill: #1f4e79; opacity: .6 }
"""


def dice_svg(scores: Mapping[str, Sequence[float]]) -> str:
    """Draw one row a target: a dot a case over the quartiles and the median.

    Args:
        scores: Name of a target -> its Dice (0..1) in the cases where it is defined; a target
            without any has an empty row.

    Returns:
        An ``<svg>`` element, styled by :data:`STYLE`; names are shortened.
    """
    height = _ROW * len(scores) + _FOOT
    spread = np.random.default_rng(0)
    rows = [_row(i, name, dice, spread) for i, (name, dice) in enumerate(scores.items())]
    lines = [*_axis(_ROW * len(scores)), *rows]
    body = "\n".join(lines)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Dice">\n{body}\n</svg>'


def _axis(bottom: int) -> list[str]:
    """Draw a line and a number every 0.2."""
    return [
        f'<line class="grid" x1="{_x(dice)}" x2="{_x(dice)}" y1="0" y2="{bottom + 5}"/>'
        f'<text x="{_x(dice)}" y="{bottom + 22}" text-anchor="middle">{dice:.1f}</text>'
        for dice in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]


def _row(row: int, name: str, dice: Sequence[float], spread: np.random.Generator) -> str:
    middle = _ROW * row + _ROW // 2
    shown = escape(_shortened(name))
    text = f'<text x="{_LEFT - 12}" y="{middle + 5}" text-anchor="end">{shown}</text>'
    if not len(dice):
        return text
    low, median, high = (_x(float(value)) for value in np.percentile(dice, [25, 50, 75]))
    heights = middle + _ROW * spread.uniform(-0.25, 0.25, len(dice))
    points = zip(dice, heights.tolist(), strict=True)
    return "".join(
        [
            text,
            f'<rect class="box" x="{low}" y="{middle - 11}" width="{high - low:.1f}" height="22"/>',
            f'<line class="median" x1="{median}" x2="{median}" y1="{middle - 11}" '
            f'y2="{middle + 11}"/>',
            *(f'<circle cx="{_x(value)}" cy="{y:.1f}" r="3"/>' for value, y in points),
        ]
    )


def _shortened(name: str) -> str:
    ends = list(accumulate(2 if east_asian_width(letter) in "WF" else 1 for letter in name))
    if not ends or ends[-1] <= _LONGEST:
        return name
    return f"{name[: bisect_right(ends, _LONGEST - 1)]}…"


def _x(dice: float) -> float:
    """Where a Dice lies from left to right, in pixels."""
    return round(_LEFT + dice * (_WIDTH - _LEFT - _RIGHT), 1)
