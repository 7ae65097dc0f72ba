"""Decathlon tasks and nnU-Net v1 data sets become today's."""

import json

import nibabel
import numpy as np
import pytest
from tiny_dataset import write_itk

from segkit.cli.main import main
from segkit.dataset.cases import training_cases
from segkit.dataset.conversion.conversion import write_conversion
from segkit.dataset.conversion.decathlon import convert_decathlon
from segkit.dataset.description import load_description
from segkit.dataset.image_io import read_image
from segkit.errors import UserError

SHAPE = (3, 4, 5)
CONTENT = {
    "name": "Prostate",
    "modality": {"0": "T2", "1": "ADC"},
    "labels": {"0": "background", "2": "TZ", "1": "PZ"},
    "numTraining": 2,
    "training": [
        {"image": "./imagesTr/p_01.nii.gz", "label": "./labelsTr/p_01.nii.gz"},
        {"image": "./imagesTr/p_02.nii.gz", "label": "./labelsTr/p_02.nii.gz"},
    ],
    "test": ["./imagesTs/p_03.nii.gz"],
}
rng = np.random.default_rng(0)
IMAGES = {name: rng.integers(-9, 99, (2, *SHAPE)).astype(np.int16) for name in ("p_01", "p_02")}


def write_task(folder, *, version_1=False, **changes):
    """Write a task of two cases and a test image, of two channels."""
    for part, name in (("Tr", "p_01"), ("Tr", "p_02"), ("Ts", "p_03")):
        image = IMAGES.get(name, IMAGES["p_01"])
        if version_1:
            for number, channel in enumerate(image):
                write_itk(folder / f"images{part}" / f"{name}_{number:04d}.nii.gz", channel)
        else:
            (folder / f"images{part}").mkdir(parents=True, exist_ok=True)
            affine = np.diag([0.5, 0.75, 3.0, 1.0])
            path = folder / f"images{part}" / f"{name}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(image.transpose(3, 2, 1, 0), affine), path)
        if part == "Tr":
            write_itk(folder / "labelsTr" / f"{name}.nii.gz", (image[0] > 50).astype(np.uint8))
    (folder / "imagesTr" / "._p_01.nii.gz").write_bytes(b"of macOS")
    (folder / "dataset.json").write_text(json.dumps(CONTENT | changes))
    return folder


@pytest.mark.parametrize("version_1", [False, True])
def test_channels_and_labels_find_their_places(tmp_path, version_1):
    source, out = write_task(tmp_path / "Task05", version_1=version_1), tmp_path / "Dataset005_P"
    assert main(["convert", str(source), "-o", str(out)]) == 0
    description = load_description(out)
    assert description.channel_names == ("T2", "ADC")
    assert description.content["labels"] == {"background": 0, "PZ": 1, "TZ": 2}
    cases = training_cases(description)
    assert [case.id for case in cases] == ["p_01", "p_02"]
    for case in cases:
        volume = read_image(case.images)
        np.testing.assert_array_equal(volume.array, IMAGES[case.id])
        if not version_1:
            assert volume.geometry.spacing_mm == (3.0, 0.75, 0.5)
        original = source / "labelsTr" / case.label.name
        assert case.label.read_bytes() == original.read_bytes()
    test_images = sorted(path.name for path in (out / "imagesTs").iterdir())
    assert test_images == ["p_03_0000.nii.gz", "p_03_0001.nii.gz"]


def test_types_and_scaling_of_channels_stay(tmp_path):
    out = tmp_path / "out"
    write_conversion(convert_decathlon(write_task(tmp_path / "t")), tmp_path / "t", out)
    image = nibabel.load(out / "imagesTr" / "p_01_0001.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert image.shape == SHAPE[::-1]


def test_one_channel_is_copied_as_it_is(tmp_path):
    source = write_task(tmp_path / "t", modality={"0": "CT"})
    for path in source.glob("images*/p_*.nii.gz"):
        write_itk(path, IMAGES["p_01"][0])
    write_conversion(convert_decathlon(source), source, tmp_path / "out")
    copy = tmp_path / "out" / "imagesTr" / "p_02_0000.nii.gz"
    assert copy.read_bytes() == (source / "imagesTr" / "p_02.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": {"0": "T2"}}, "holds 2 channels, dataset.json declares 1"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "a name of its own"),
        ({"labels": {"1": "a"}}, "must give 0"),
        ({"training": []}, "no training"),
        ({"training": ["x.nii.gz"]}, '"training" names an "image"'),
        ({"training": {"image": 3}}, '"training" names an "image"'),
        ({"training": CONTENT["training"] * 2}, "listed twice: p_01, p_02"),
        ({"training": [{"image": "./imagesTr/.nii.gz"}]}, "'' cannot name a case"),
        ({"test": [{"label": "x.nii.gz"}]}, '"test" names an "image"'),
        ({"test": [3]}, '"test" names an "image"'),
        ({"test": 3}, '"test" names an "image"'),
        ({"modality": ["T2", "ADC"]}, r'modality must be .*, got \["T2", "ADC"\]'),
        ({"modality": {"T2": 0}}, "modality must be"),
        ({"labels": {"background": 0, "PZ": 1}}, 'labels must be {"0": NAME'),
        ({"labels": "liver"}, "labels must be"),
        ({"test": ["./imagesTs/lost.nii.gz"]}, "2 files are missing"),
    ],
)
def test_refusals(tmp_path, changes, message):
    source = write_task(tmp_path / "t", **changes)
    with pytest.raises(UserError, match=message):
        convert_decathlon(source)


@pytest.mark.parametrize("text", ["3", "[]", '"modality"', '["channel_names"]', "null"])
def test_a_description_that_is_no_object_is_told(tmp_path, capsys, text):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "dataset.json").write_text(text)
    arguments = ["convert", str(tmp_path / "t"), "-o", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert f"expected keys and values, got {text}" in capsys.readouterr().err
    assert main([*arguments, "--from", "decathlon"]) == 1
    assert "not a dataset.json of the Decathlon" in capsys.readouterr().err


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path):
    source = write_task(tmp_path / "t")
    conversion = convert_decathlon(source)
    (source / "labelsTr" / "p_02.nii.gz").unlink()
    with pytest.raises(UserError, match="cannot copy"):
        write_conversion(conversion, source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t"]


def test_places_that_hold_something_are_refused(tmp_path):
    source = write_task(tmp_path / "t")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        write_conversion(convert_decathlon(source), source, tmp_path / "full")
    with pytest.raises(UserError, match="inside"):
        write_conversion(convert_decathlon(source), source, source / "out")
