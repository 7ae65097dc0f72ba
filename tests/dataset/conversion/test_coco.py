"""Polygons and run lengths, painted."""

import json
import shutil
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


@pytest.mark.parametrize(
    "wrong",
    [
        *([], None, [1, 2, 3], [[]], [[1, 2]], [[0, 0, 1]], [["x", 0, 1, 1]], [{}], "polygon"),
        *({"size": [6, 8]}, {"counts": [3, 4]}, {"counts": [-1, 49]}, {"counts": ["48"]}),
        *({"counts": 48}, {"counts": []}, {"counts": "é"}, {"counts": None}),
    ],
)
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


IMAGE, _ = CONTENT["images"]
DRAWN, _ = CONTENT["annotations"]


def without(entry, key):
    return [{name: value for name, value in entry.items() if name != key}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{**DRAWN, "category_id": 1}]}, "categories that are not declared: 1"),
        ({"annotations": [{**DRAWN, "image_id": 7}]}, "images that are not declared: 7"),
        ({"annotations": {"0": DRAWN}}, "expected a list"),
        ({"annotations": ["x"]}, "image_id of entry 0 .* is missing"),
        *(
            ({"annotations": without(DRAWN, key)}, f"{key} of entry 0 .* is missing")
            for key in ("image_id", "category_id", "segmentation")
        ),
        *(
            ({"images": without(IMAGE, key)}, f"{key} of entry 0 .* is missing")
            for key in ("id", "file_name", "height")
        ),
        ({"images": [{**IMAGE, "width": "8"}]}, 'width of entry 0 .* is "8"'),
        ({"images": [IMAGE, IMAGE]}, "several entries have the id 4"),
        ({"images": [{**IMAGE, "id": [4]}]}, r"id of entry 0 .* is \[4\]"),
        ({"categories": without({"id": 3, "name": "a"}, "id")}, "id of entry 0 .* is missing"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 9, "name": "a"}]}, "a name of its own"),
        ({"categories": [{"id": 3, "name": 5}]}, "name of entry 0 .* is 5"),
        ({"categories": []}, "categories missing"),
    ],
)
def test_refusals(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        convert_coco(write(tmp_path, **changes), None)


def test_images_of_one_name_are_refused(tmp_path):
    images = [
        {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
        for number, name in ((4, "left/a.png"), (5, "right/a.png"))
    ]
    file = write(tmp_path, images=images)
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
        shutil.copy(tmp_path / "images" / "a.png", tmp_path / side)
    with pytest.raises(
        UserError, match=r"left/a\.png and .*right/a\.png would be the same case, a"
    ):
        convert_coco(file, None)


def test_names_that_files_or_labels_cannot_have_are_refused(tmp_path, capsys):
    file = write(tmp_path / "s", images=[{**IMAGE, "file_name": ".a.png"}])
    shutil.copy(tmp_path / "s" / "images" / "a.png", tmp_path / "s" / "images" / ".a.png")
    with pytest.raises(UserError, match=r"'\.a' cannot name a case"):
        convert_coco(file, None)
    file = write(tmp_path / "s", categories=[{"id": 3, "name": " "}, {"id": 9, "name": "b"}])
    assert main(["convert", str(file), "-o", str(tmp_path / "o")]) == 1
    assert 'a label is called " "' in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_ids_may_be_text(tmp_path):
    text = json.dumps(CONTENT).replace('_id": 4', '_id": "x"').replace('"id": 4', '"id": "x"')
    description = convert_coco(write(tmp_path, **json.loads(text)), None).content
    assert description["labels"] == {"background": 0, "cell": 1, "nucleus": 2}


def test_missing_images_are_told(tmp_path):
    file = write(tmp_path / "s")
    with pytest.raises(UserError, match="2 images are not there"):
        convert_coco(file, tmp_path)
