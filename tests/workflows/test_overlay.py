"""Pictures of a dataset, through the command line."""

import json

import numpy as np
import pytest
from PIL import Image

from segkit.cli.main import main
from segkit.dataset.image_io import write_labels
from segkit.report.label_picture import class_colours
from segkit.types import Geometry

GEOMETRY = Geometry(spacing_mm=(3.0, 1.0, 2.0))


@pytest.fixture
def dataset(tmp_path):
    """Two cases of one label, black above their labels."""
    folder = tmp_path / "Dataset001_Two"
    label = np.zeros((3, 8, 8), np.uint8)
    label[1, 2:6, 2:6] = 1
    for case in "ab":
        image = np.full(label.shape, 100, np.uint8)
        image[:, :1] = 0
        write_labels(folder / "imagesTr" / f"{case}_0000.nii.gz", image, GEOMETRY)
        write_labels(folder / "labelsTr" / f"{case}.nii.gz", label, GEOMETRY)
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "box": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def has_colour(path, colour):
    """Whether a picture shows a colour halfway over white, the brightest of the image."""
    pixels = np.asarray(Image.open(path).convert("RGB")) / 255
    wanted = 0.5 * np.array(colour) + 0.5
    return bool((np.abs(pixels - wanted).max(-1) < 0.02).any())


def test_every_case_is_drawn(dataset, tmp_path, capsys):
    assert main(["overlay", str(dataset), "-o", str(tmp_path / "out")]) == 0
    assert "2 pictures" in capsys.readouterr().out
    [colour] = class_colours(1)
    for case in "ab":
        assert has_colour(tmp_path / "out" / f"{case}.png", colour)


def test_predictions_take_the_place_of_labels(dataset, tmp_path, capsys):
    write_labels(tmp_path / "p" / "b.nii.gz", np.zeros((3, 8, 8), np.uint8), GEOMETRY)
    options = ["overlay", str(dataset), "-o", str(tmp_path / "out"), "-p", str(tmp_path / "p")]
    assert main(options) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]
    assert "1 training cases are not predicted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--channel", "1"], "there is no channel 1"), (["-p", "nowhere"], "no training case")],
)
def test_refusals(dataset, tmp_path, capsys, options, message):
    assert main(["overlay", str(dataset), "-o", str(tmp_path / "out"), *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
