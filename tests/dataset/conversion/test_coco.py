"""Polygons and run lengths, painted."""

import json
from itertools import groupby

import numpy as np
import pytest
from PIL import Image

from segkit.cli.main import main
from segkit.dataset.cases import training_cases
from segkit.dataset.conversion.coco import convert_coco, region_mask
from segkit.dataset.description import load_description
from segkit.dataset.image_io import read_labels
from segkit.errors import UserError

HEIGHT, WIDTH = 6, 8
BOX = np.zeros((HEIGHT, WIDTH), bool)
BOX[1:4, 2:6] = True


def run_lengths(mask):
    """Count runs down the columns, the first of zeros."""
    return [len(list(run)) for _, run in groupby(mask.T.ravel())]


def as_text(runs):
    """Write runs as COCO compresses them."""
    text = ""
    for i, run in enumerate(runs):
        value = run - (runs[i - 2] if i > 2 else 0)
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = not ((value == 0 and not bits & 16) or (value == -1 and bits & 16))
            text += chr(48 + bits + 32 * more)
    return text


def test_run_lengths_and_their_text_are_the_mask():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((HEIGHT, WIDTH)) < rng.random()
        mask[0, 0] = False
        runs = run_lengths(mask)
        assert sum(runs) == mask.size
        for counts in (runs, as_text(runs)):
            found = region_mask({"counts": counts}, (HEIGHT, WIDTH), "x")
            np.testing.assert_array_equal(found, mask)


def test_a_polygon_covers_its_pixels():
    found = region_mask([[2, 1, 5, 1, 5, 3, 2, 3]], (HEIGHT, WIDTH), "x")
    np.testing.assert_array_equal(found, BOX)


@pytest.mark.parametrize("wrong", [[], None, {"counts": [3, 4]}, {"size": [6, 8]}, [1, 2, 3]])
def test_other_segmentations_are_refused(wrong):
    with pytest.raises(UserError, match="neither polygons nor run lengths"):
        region_mask(wrong, (HEIGHT, WIDTH), "x")


CONTENT = {
    "images": [
        {"id": 4, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        {"id": 5, "file_name": "bare.png", "height": HEIGHT, "width": WIDTH},
    ],
    "categories": [{"id": 9, "name": "nucleus"}, {"id": 3, "name": "cell"}],
    "annotations": [
        {"image_id": 4, "category_id": 9, "segmentation": {"counts": [9, 1, 38]}},
        {"image_id": 4, "category_id": 3, "segmentation": [[0, 0, 7, 0, 7, 5, 0, 5]]},
    ],
}


def write(folder, **changes):
    for image in CONTENT["images"]:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        picture = np.zeros((HEIGHT, WIDTH), np.uint8)
        Image.fromarray(picture).save(folder / "images" / image["file_name"])
    (folder / "coco.json").write_text(json.dumps(CONTENT | changes))
    return folder / "coco.json"


def test_small_objects_lie_over_large_ones(tmp_path):
    file = write(tmp_path / "s")
    assert main(["convert", str(file), "-o", str(tmp_path / "o")]) == 0
    description = load_description(tmp_path / "o")
    assert description.content["labels"] == {"background": 0, "cell": 1, "nucleus": 2}
    [case] = training_cases(description)
    expected = np.ones((HEIGHT, WIDTH), int)
    expected[9 % HEIGHT, 9 // HEIGHT] = 2
    np.testing.assert_array_equal(read_labels(case.label).array[0, 0], expected)
    assert [path.name for path in (tmp_path / "o" / "imagesTs").iterdir()] == ["bare_0000.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{"image_id": 4, "category_id": 1}]}, "not declared: 1"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 9, "name": "a"}]}, "a name of its own"),
        ({"categories": []}, "categories missing"),
    ],
)
def test_refusals(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        convert_coco(write(tmp_path, **changes), None)


def test_missing_images_are_told(tmp_path):
    file = write(tmp_path / "s")
    with pytest.raises(UserError, match="2 images are not there"):
        convert_coco(file, tmp_path)
