import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from segkit.dataset.image_io import read_header, read_image, read_labels, write_labels
from segkit.dataset.image_io.image2d_io import PLANE
from segkit.dataset.image_io.tiff_io import count_pages
from segkit.errors import UserError
from segkit.types import Geometry

GREY = np.random.default_rng(0).integers(0, 255, (30, 40)).astype(np.uint8)
LABELS = (GREY % 4).astype(np.uint8)
FORMATS = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")


def saved(path, array, **options):
    Image.fromarray(array, **options).save(path)
    return path


@pytest.mark.parametrize("ending", [e for e in FORMATS if not e.startswith(".j")])
def test_grey_images(tmp_path, ending):
    volume = read_image([saved(tmp_path / f"a{ending}", GREY)])
    assert np.array_equal(volume.array, GREY[None, None])
    assert volume.geometry == PLANE
    assert volume.geometry.spacing_mm == (999, 1, 1)


@pytest.mark.parametrize("ending", [".jpg", ".jpeg"])
def test_jpeg_is_read_and_never_written(tmp_path, ending):
    path = saved(tmp_path / f"a{ending}", GREY, mode="L")
    assert read_image([path]).array.shape == (1, 1, 30, 40)
    with pytest.raises(UserError, match="JPEG would change label values"):
        write_labels(path, LABELS[None], PLANE)


@pytest.mark.parametrize(
    ("ending", "channels"), [(".png", 3), (".png", 4), (".bmp", 3), (".tif", 4)]
)
def test_colours_are_channels(tmp_path, ending, channels):
    array = np.random.default_rng(1).integers(0, 255, (6, 7, channels)).astype(np.uint8)
    path = saved(tmp_path / f"a{ending}", array)
    assert np.array_equal(read_image([path]).array[:, 0], np.moveaxis(array, -1, 0))
    assert read_header(path).channels == channels


def test_sixteen_bit_colours_keep_their_bits(tmp_path):
    array = np.random.default_rng(1).integers(0, 60000, (6, 7, 3)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "a.png"))
    assert np.array_equal(read_image([tmp_path / "a.png"]).array[:, 0], np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_palette_is_indices_for_labels_and_colours_for_images(tmp_path, ending):
    picture = Image.fromarray(LABELS)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 756)
    picture.save(tmp_path / f"a{ending}")
    assert np.array_equal(read_labels(tmp_path / f"a{ending}").array, LABELS[None, None])
    colours = read_image([tmp_path / f"a{ending}"]).array
    assert np.array_equal(colours[0, 0] == 255, LABELS == 1)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_bilevel_masks_hold_0_and_1(tmp_path, ending):
    path = saved(tmp_path / f"a{ending}", GREY > 100)
    labels = read_labels(path)
    assert labels.array.dtype == np.uint8
    assert np.array_equal(labels.array[0, 0], GREY > 100)


def test_grey_labels_saved_as_colours_are_taken_and_true_colours_refused(tmp_path):
    opaque = np.full_like(LABELS, 255)
    path = saved(tmp_path / "a.png", np.dstack([LABELS] * 3 + [opaque]))
    assert np.array_equal(read_labels(path).array[0, 0], LABELS)
    path = saved(tmp_path / "b.png", np.dstack([LABELS, LABELS, opaque]))
    with pytest.raises(UserError, match="this file holds 3"):
        read_labels(path)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_images_are_refused(tmp_path, ending, share):
    path = saved(tmp_path / f"a{ending}", GREY)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError) as caught:
        read_image([path])
    assert caught.value.where == path


@pytest.mark.parametrize(
    ("ending", "highest"), [(".png", 9), (".png", 999), (".bmp", 9), (".tif", 999)]
)
def test_written_labels_come_back(tmp_path, ending, highest):
    labels = (np.arange(42).reshape(1, 6, 7) % (highest + 1)).astype(np.int32)
    labels[0, 0, 0] = highest
    path = tmp_path / "deep" / f"a{ending}"
    write_labels(path, labels, PLANE)
    back = read_labels(path)
    assert np.array_equal(back.array[0], labels)
    assert back.geometry == PLANE
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("ending", "highest"), [(".png", 70000), (".bmp", 300)])
def test_labels_beyond_the_format_are_refused(tmp_path, ending, highest):
    with pytest.raises(UserError, match="cannot hold"):
        write_labels(tmp_path / f"a{ending}", np.full((1, 2, 2), highest), PLANE)
    with pytest.raises(UserError, match="cannot hold 3 slices"):
        write_labels(tmp_path / f"a{ending}", np.zeros((3, 2, 2), np.uint8), PLANE)


def stack(path, pages=5):
    array = np.random.default_rng(2).integers(0, 9, (pages, 6, 7)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return array


@pytest.mark.parametrize("sidecar", ["case.json", "case_0000.json"])
def test_tiff_volume_takes_its_spacing_from_the_json_beside_it(tmp_path, sidecar):
    array = stack(tmp_path / "case_0000.tif")
    (tmp_path / sidecar).write_text(json.dumps({"spacing": [3, 0.5, 0.25]}))
    volume = read_image([tmp_path / "case_0000.tif"])
    assert np.array_equal(volume.array[0], array)
    assert volume.geometry == Geometry(spacing_mm=(3.0, 0.5, 0.25))


def test_tiff_volume_without_spacing_warns(tmp_path, caplog):
    stack(tmp_path / "case_0000.tif")
    assert read_image([tmp_path / "case_0000.tif"]).geometry.spacing_mm == (1, 1, 1)
    assert "1 x 1 x 1" in caplog.text


@pytest.mark.parametrize("spacing", [[1, 1], [1, 1, 0], [1, 1, True], "1", None])
def test_wrong_spacing_file_is_refused(tmp_path, spacing):
    stack(tmp_path / "case_0000.tif")
    (tmp_path / "case.json").write_text(json.dumps({"spacing": spacing}))
    with pytest.raises(UserError, match="cannot use the spacing"):
        read_image([tmp_path / "case_0000.tif"])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.97])
def test_truncated_tiff_volume_is_refused(tmp_path, share):
    path = tmp_path / "case_0000.tif"
    stack(path)
    assert count_pages(path) == 5
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"truncated|not a readable"):
        read_image([path])


def test_tiff_volume_is_written_with_its_spacing(tmp_path):
    geometry = Geometry(spacing_mm=(3.0, 0.5, 0.25))
    labels = (np.arange(210).reshape(5, 6, 7) % 5).astype(np.uint8)
    write_labels(tmp_path / "case.tif", labels, geometry)
    back = read_labels(tmp_path / "case.tif")
    assert np.array_equal(back.array[0], labels)
    assert back.geometry == geometry


def test_a_reader_by_name_decides_what_a_tiff_is(tmp_path):
    path = saved(tmp_path / "a.tif", GREY)
    assert read_image([path], "Tiff3DIO").geometry.stored_ndim == 3
    stack(tmp_path / "b.tif")
    with pytest.raises(UserError, match="expected a 2D image, got 5 slices"):
        read_image([tmp_path / "b.tif"], "NaturalImage2DIO")


def test_real_microscopy_images(shared_data, tmp_path):
    folder = shared_data("Dataset123_AxonMyelin")
    for file in sorted((folder / "labelsTr").iterdir()):
        labels = read_labels(file)
        write_labels(tmp_path / "out.png", labels.array[0], labels.geometry)
        back = read_labels(tmp_path / "out.png")
        assert np.array_equal(back.array, labels.array)
        assert set(np.unique(back.array)) <= {0, 1, 2}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_larger_than_pillow_allows(tmp_path, monkeypatch):
    pixels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    for ending in (".png", ".bmp"):
        Image.fromarray(pixels).save(tmp_path / f"a{ending}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    for ending in (".png", ".bmp"):
        assert np.array_equal(read_image([tmp_path / f"a{ending}"]).array[0, 0], pixels)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert np.array_equal(read_image([tmp_path / "a.png"]).array[0, 0], pixels)
    with pytest.raises(UserError, match="exceeds limit"):
        read_image([tmp_path / "a.bmp"])


def with_tags(path, tag, values):
    """Write the values of a tag, one a page, into a TIFF file of ITK."""
    content = bytearray(path.read_bytes())
    (offset,) = struct.unpack("<I", content[4:8])
    for value in values:
        (count,) = struct.unpack("<H", content[offset : offset + 2])
        places = range(offset + 2, offset + 2 + 12 * count, 12)
        (place,) = (i for i in places if struct.unpack("<H", content[i : i + 2]) == (tag,))
        content[place + 8 : place + 12] = struct.pack("<I", value)
        end = offset + 2 + 12 * count
        (offset,) = struct.unpack("<I", content[end : end + 4])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kinds", "slices"),
    [((0, 0, 0), 3), ((2, 2, 2), 3), ((2, 2, 1), 2), ((0, 1, 1), 1), ((2, 4, 1), 1)],
)
def test_thumbnails_and_masks_after_the_pages_are_none(tmp_path, kinds, slices):
    array = stack(tmp_path / "a.tif", 3)
    with_tags(tmp_path / "a.tif", 254, kinds)
    assert count_pages(tmp_path / "a.tif") == slices
    assert np.array_equal(read_labels(tmp_path / "a.tif").array[0], array[:slices])


@pytest.mark.parametrize(
    ("tag", "values"), [(254, (1, 2, 2)), (254, (0, 2, 2)), (256, (7, 9, 7)), (258, (16, 16, 32))]
)
def test_pages_for_which_itk_makes_no_room_are_refused(tmp_path, tag, values):
    """ITK reads some of these into memory that is not its own, and others wrongly."""
    stack(tmp_path / "a.tif", 3)
    with_tags(tmp_path / "a.tif", tag, values)
    with pytest.raises(UserError, match="pages"):
        read_labels(tmp_path / "a.tif")


def test_large_images_are_read_without_a_warning(tmp_path):
    path = saved(tmp_path / "a.png", GREY)
    code = (
        "import sys; from pathlib import Path; from PIL import Image; "
        "from segkit.dataset.image_io import read_header, read_image; path = Path(sys.argv[1]); "
        "Image.MAX_IMAGE_PIXELS = 1000; read_header(path); read_image([path])"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    assert done.stderr == b""
