"""Images and masks of numbers or colours, paired by name."""

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import write_itk

from segkit.cli.main import main
from segkit.dataset.cases import training_cases
from segkit.dataset.conversion.folders import convert_folders
from segkit.dataset.conversion.values import as_labels, parse_labels, parse_value, value_text
from segkit.dataset.description import load_description
from segkit.dataset.image_io import read_image, read_labels
from segkit.errors import UserError

GREY = np.arange(20, dtype=np.uint8).reshape(4, 5)
COLOURS = {"#000000": (0, 0, 0), "#ff0000": (255, 0, 0), "#0000ff": (0, 0, 255)}


def write_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def colour_mask(classes):
    """Paint (Y, X) class numbers with the colours above."""
    return np.array(list(COLOURS.values()), np.uint8)[classes]


def convert(source, out, *options):
    assert main(["convert", str(source), "-o", str(out), *map(str, options)]) == 0
    description = load_description(out)
    return description, training_cases(description)


def test_colours_become_labels(tmp_path, capsys):
    classes = np.array([[0, 1, 2, 0, 0], [0, 1, 1, 0, 2]])
    write_png(tmp_path / "s" / "images" / "a.png", GREY[:2])
    write_png(tmp_path / "s" / "masks" / "a_mask.png", colour_mask(classes))
    labels = ["background=#000000", "axon=#0000ff", "myelin=255,0,0"]
    description, cases = convert(tmp_path / "s", tmp_path / "o", "--labels", *labels)
    assert description.content["labels"] == {"background": 0, "axon": 1, "myelin": 2}
    np.testing.assert_array_equal(read_image(cases[0].images).array[0, 0], GREY[:2])
    expected = np.array([0, 2, 1])[classes]
    np.testing.assert_array_equal(read_labels(cases[0].label).array[0, 0], expected)
    assert "#ff0000 -> 2 myelin" in capsys.readouterr().out


def test_without_names_every_value_is_a_label(tmp_path):
    for case, values in (("a", [0, 255]), ("b", [0, 7])):
        write_png(tmp_path / "images" / f"{case}.png", GREY)
        mask = np.resize(np.array(values, np.uint8), (4, 5))
        write_png(tmp_path / "labels" / f"{case}.png", mask)
    description, cases = convert(tmp_path, tmp_path.parent / f"{tmp_path.name}_out")
    assert description.content["labels"] == {"background": 0, "label_7": 1, "label_255": 2}
    assert [int(read_labels(case.label).array.max()) for case in cases] == [2, 1]


def test_a_mask_of_one_value_is_the_foreground(tmp_path):
    write_png(tmp_path / "s" / "images" / "a.jpg", np.stack([GREY] * 2 + [GREY * 5], -1))
    write_png(tmp_path / "s" / "images" / "bare.jpg", np.stack([GREY] * 2 + [GREY * 5], -1))
    write_png(tmp_path / "m" / "a.png", np.uint8(255) * (GREY > 9))
    description, cases = convert(tmp_path / "s", tmp_path / "o", "--masks", tmp_path / "m")
    assert description.content["labels"] == {"background": 0, "foreground": 1}
    assert description.channel_names == ("R", "G", "B")
    assert cases[0].label.suffix == ".png"
    np.testing.assert_array_equal(read_labels(cases[0].label).array[0, 0], GREY > 9)
    assert [path.name for path in (tmp_path / "o" / "imagesTs").iterdir()] == ["bare_0000.jpg"]


def test_volumes_keep_their_geometry(tmp_path):
    mask = np.zeros((3, 4, 5), np.int16)
    mask[1, 2] = 5
    write_itk(tmp_path / "s" / "images" / "a.nii.gz", mask.astype(np.float32), (2.0, 3.0, 4.0))
    write_itk(tmp_path / "s" / "masks" / "a_seg.nrrd", mask, (2.0, 3.0, 4.0))
    description, cases = convert(tmp_path / "s", tmp_path / "o", "--channels", "CT")
    assert description.channel_names == ("CT",)
    volume = read_labels(cases[0].label)
    assert cases[0].label.name == "a.nii.gz"
    assert volume.geometry.spacing_mm == (4.0, 3.0, 2.0)
    np.testing.assert_array_equal(volume.array[0], mask > 0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["background=0", "a=7"], "does not name: #ff0000"),
        (["a"], "expected name=value"),
        (["a=red"], "'red' is no value"),
        (["a=1", "a=2"], "a second time"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, message):
    write_png(tmp_path / "images" / "a.png", GREY)
    write_png(tmp_path / "masks" / "a.png", colour_mask(np.eye(4, 5, dtype=int)))
    with pytest.raises(UserError, match=message):
        convert_folders(tmp_path / "images", tmp_path / "masks", labels=labels)


def refused(tmp_path):
    return convert_folders(tmp_path / "images", tmp_path / "masks")


def test_photographs_are_no_masks(tmp_path):
    write_png(tmp_path / "images" / "a.png", GREY)
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    write_png(tmp_path / "masks" / "a.png", noise)
    with pytest.raises(UserError, match="cannot be labels"):
        refused(tmp_path)


def test_pairs_must_be_complete_and_unambiguous(tmp_path):
    write_png(tmp_path / "images" / "a.png", GREY)
    write_png(tmp_path / "masks" / "b.png", GREY)
    with pytest.raises(UserError, match=r"masks without an image of that name: b\.png"):
        refused(tmp_path)
    write_png(tmp_path / "masks" / "a_mask.png", GREY)
    write_png(tmp_path / "masks" / "a_seg.png", GREY)
    with pytest.raises(UserError, match="of the same case"):
        refused(tmp_path)


def test_a_background_must_be_known(tmp_path):
    write_png(tmp_path / "images" / "a.png", GREY)
    write_png(tmp_path / "masks" / "a.png", GREY * 0 + 3)
    with pytest.raises(UserError, match="no mask has 0 or black"):
        refused(tmp_path)


@pytest.mark.parametrize("text", ["0", "17", "#00ff7f", "255,255,0"])
def test_values_read_back(text):
    value = parse_value(text)
    assert parse_value(value_text(value)) == value


def test_a_grey_is_its_number(tmp_path):
    assert parse_value("#070707") == parse_value("7,7,7") == parse_value("7") == 7
    for case, classes in (("a", np.zeros((2, 3), int)), ("b", np.ones((2, 3), int))):
        write_png(tmp_path / "images" / f"{case}.png", GREY[:2, :3])
        write_png(tmp_path / "masks" / f"{case}.png", colour_mask(classes))
    found = convert_folders(tmp_path / "images", tmp_path / "masks")
    assert found.content["labels"] == {"background": 0, "foreground": 1}


def test_values_become_their_places():
    order = tuple(parse_labels(["background=9", "a=#000001", "b=2"]).values())
    values = np.array([order[2], order[0], order[1], order[0]])
    np.testing.assert_array_equal(as_labels(values, order), [2, 0, 1, 0])


def test_without_masks_the_way_out_is_named(tmp_path, capsys):
    write_png(tmp_path / "images" / "a.png", GREY)
    assert main(["convert", str(tmp_path), "-o", str(tmp_path / "o")]) == 1
    assert "--masks" in capsys.readouterr().err
