"""A header tells what the file is read as, without its voxels; companions are a part of a file."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from tiny_dataset import noise, write_itk

from segkit.dataset.image_io import companions, read_header, read_image, sitk_io
from segkit.errors import UserError

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl")
TURNED = (0, 1, 0, -1, 0, 0, 0, 0, 1)


def picture(path, mode, **options):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 200, (5, 6, 3), np.uint8))
    image.convert(mode).save(path, **options)


def agree(path, reader=None):
    volume, header = read_image([path], reader), read_header(path, reader)
    assert (header.channels, *header.shape) == volume.array.shape
    assert header.geometry == volume.geometry


@pytest.mark.parametrize("ending", VOLUMES)
def test_volumes(tmp_path, ending):
    direction = None if ending == ".gipl" else TURNED
    path = write_itk(
        tmp_path / f"a{ending}", noise(), (0.5, 0.7, 3), (1, 2, 3, 0), direction=direction
    )
    agree(path)
    if ending.startswith(".nii"):
        agree(path, "NibabelIO")


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5, 6)])
def test_planes_and_four_axes(tmp_path, ending, shape):
    agree(write_itk(tmp_path / f"a{ending}", noise(shape)))


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_several_values_a_voxel(tmp_path, ending, channels):
    array = np.random.default_rng(0).integers(0, 999, (5, 6, channels)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / f"a{ending}"))
    agree(tmp_path / f"a{ending}")


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 4, 2), (6, 5, 4, 1, 2)])
def test_nifti_axes(tmp_path, shape):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(noise(shape), np.diag([1.0, 2, 3, 1])), path)
    agree(path)
    agree(path, "NibabelIO")


@pytest.mark.parametrize(
    ("ending", "modes"),
    [
        (".png", "1 L LA P RGB RGBA I;16"),
        (".bmp", "1 L P RGB"),
        (".tif", "1 L P RGB RGBA"),
        (".jpg", "L RGB CMYK"),
    ],
)
def test_pictures(tmp_path, ending, modes):
    for mode in modes.split():
        if mode != "I;16":
            picture(tmp_path / f"a{ending}", mode)
        agree(tmp_path / f"a{ending}")


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_stacks_of_pages(tmp_path, mode):
    path = tmp_path / "a.tif"
    pages = [Image.new(mode, (6, 5)) for _ in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    (tmp_path / "a.json").write_text('{"spacing": [3, 2, 1]}')
    agree(path)


def test_voxels_are_not_decoded(tmp_path, monkeypatch):
    array = np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    write_itk(tmp_path / "a.nrrd", noise((3, 4, 5, 6)))
    monkeypatch.setattr(sitk, "ReadImage", None)
    monkeypatch.setattr(sitk_io, "load_image", None)
    assert read_header(tmp_path / "a.png").channels == 3
    assert read_header(tmp_path / "a.nrrd").channels == 3


@pytest.mark.parametrize("ending", [*VOLUMES, ".png", ".bmp", ".tif", ".jpg"])
def test_what_is_no_image_is_refused(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"no image at all" * 30)
    with pytest.raises(UserError, match="not a re") as caught:
        read_header(path)
    assert caught.value.where == path


def test_complex_voxels_are_refused(tmp_path):
    sitk.WriteImage(sitk.Image(4, 5, 6, sitk.sitkComplexFloat32), str(tmp_path / "a.nrrd"))
    for read in (read_header, lambda path: read_image([path])):
        with pytest.raises(UserError, match="cannot use 3-dimensional voxels"):
            read(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.raw", ["a.raw"]),
        ("LOCAL", []),
        ("gone.raw", []),
        ("LIST\na.raw\nb_02.raw", ["a.raw", "b_02.raw"]),
        ("b_%02d.raw 1 2 1", ["b_01.raw", "b_02.raw"]),
    ],
)
def test_voxels_of_metaimage_are_companions(tmp_path, line, expected):
    for name in ("a.raw", "b_01.raw", "b_02.raw"):
        (tmp_path / name).touch()
    path = tmp_path / "x.mhd"
    path.write_text(f"ObjectType = Image\nNDims = 3\nElementDataFile = {line}\n")
    assert [file.name for file in companions(path)] == expected


def test_the_spacing_of_tiff_is_a_companion(tmp_path):
    for name in ("a.json", "b.json", "a.nii"):
        (tmp_path / name).touch()
    assert companions(tmp_path / "a_0000.tif") == (tmp_path / "a.json",)
    assert companions(tmp_path / "c_0000.tif") == ()
    assert companions(tmp_path / "a.nii") == ()
