import re
from xml.etree import ElementTree

import numpy as np
import pytest

from segkit.report.dice_plot import dice_svg


def draw(scores):
    svg = ElementTree.fromstring(dice_svg(scores))
    return svg, {text.text: float(text.get("x")) for text in svg.iter("text")}


def test_dots_boxes_and_medians_lie_where_the_axis_says():
    dice = [0.0, 0.2, 0.5, 0.9, 1.0]
    svg, texts = draw({"liver": dice})
    dots = sorted(float(dot.get("cx")) for dot in svg.iter("circle"))
    axis = np.interp(dice, [0, 1], [texts["0.0"], texts["1.0"]])
    assert dots == pytest.approx(axis.tolist(), abs=0.1)
    (box,) = svg.iter("rect")
    assert float(box.get("x")) == pytest.approx(axis[1], abs=0.1)
    assert float(box.get("width")) == pytest.approx(axis[3] - axis[1], abs=0.2)
    median = next(line for line in svg.iter("line") if line.get("class") == "median")
    assert float(median.get("x1")) == pytest.approx(axis[2], abs=0.1)


def test_dots_stay_in_their_row_and_every_target_has_one():
    svg, texts = draw({"a": [0.5] * 50, "b": [], "c": [0.1]})
    heights = [float(dot.get("cy")) for dot in svg.iter("circle")]
    row = float(svg.get("viewBox").split()[3]) / 3
    assert len(heights) == 51
    assert max(heights[:50]) < row < 2 * row - 20 < heights[50]
    assert len(list(svg.iter("rect"))) == 2
    assert {"a", "b", "c"} <= texts.keys()


def test_names_are_escaped_and_shortened():
    name = "<script>&" + "x" * 100
    _, texts = draw({name: [0.5], "肝臓": [0.1]})
    (shown,) = (text for text in texts if text.startswith("<script>&xxx"))
    assert shown.endswith("…")
    assert len(shown) < 40
    assert "肝臓" in texts
    _, texts = draw({"肝" * 18: [0.5], "臓" * 19: [0.5]})
    assert {"肝" * 18, "臓" * 17 + "…"} <= texts.keys()


def test_equal_scores_give_equal_pictures_without_anything_from_outside():
    first, second = (dice_svg({"a": [0.3, 0.4]}) for _ in range(2))
    assert first == second
    assert not re.search("href|src|http", first)
