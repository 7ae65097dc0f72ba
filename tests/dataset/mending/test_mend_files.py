import itertools
import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from segkit.dataset.cases import Case
from segkit.dataset.checks.geometry import SAME_VOXEL, farthest_centres
from segkit.dataset.image_io import read_image, read_labels, read_masks, write_labels, write_masks
from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.dataset.mending.files import FileJob, mend_file
from segkit.dataset.orientation import reorient
from segkit.dataset.problems import problem
from segkit.types import Geometry, Volume

ONE = LabelSchema(classes=(LabelClass(name="liver", value=7),))
TWO = LabelSchema(classes=(LabelClass(name="a", value=1), LabelClass(name="b", value=2)))
STRUCTURES = LabelSchema(
    classes=(LabelClass(name="a", value=1), LabelClass(name="b", value=2)), overlapping=True
)
SHAPE = (4, 5, 6)
ORIGIN = (3.0, -2.0, 8.0)


@pytest.fixture
def image(tmp_path, itk_file):
    noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    return itk_file(tmp_path / "imagesTr" / "a_0000.nii.gz", noise, origin=ORIGIN)


@pytest.fixture
def mend(tmp_path, image):
    """Mend a label file (or another) that has problems of the given codes."""

    def run(file, codes, schema=ONE, masks_of_255=True, label=None):
        problems = (problem(code, "wrong", where=file, fix="", case="a") for code in codes)
        job = FileJob(
            file=file,
            name=file.name,
            target=tmp_path / "new" / file.name,
            case=Case(id="a", images=(image,), label=label or file),
            problems=tuple(problems),
        )
        return mend_file(schema, None, masks_of_255, job), job.target

    return run


def labels(*values, dtype=np.uint8):
    array = np.zeros(SHAPE, dtype)
    array.flat[: len(values)] = values
    return array


def test_255_is_the_only_class(tmp_path, itk_file, mend):
    file = itk_file(tmp_path / "labelsTr" / "a.nii.gz", labels(255, 255), origin=ORIGIN)
    before = file.read_bytes()
    done, target = mend(file, ["SK-V003"])
    (line,) = done.mended
    assert (line.code, line.message) == ("SK-V003", "255 is now 7 (2 voxels)")
    assert done.left == ()
    assert np.array_equal(read_labels(target).array[0], labels(7, 7))
    assert read_labels(target).geometry == read_labels(file).geometry
    assert file.read_bytes() == before


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
def test_255_in_other_formats_and_as_floats(tmp_path, itk_file, mend, ending):
    file = itk_file(tmp_path / f"a{ending}", labels(255, dtype=np.float32))
    _, target = mend(file, ["SK-V003"])
    assert np.array_equal(read_labels(target).array[0], labels(7))


@pytest.mark.parametrize("colours", [1, 3])
def test_255_in_2d_images(tmp_path, mend, image, colours):
    image.unlink()
    plane = np.zeros((5, 6, colours), np.uint8)
    plane[1, 2] = 255
    sitk.WriteImage(sitk.GetImageFromArray(plane, isVector=True), str(tmp_path / "a.png"))
    done, target = mend(tmp_path / "a.png", ["SK-V003"])
    assert len(done.mended) == 1
    assert np.array_equal(read_labels(target).array[0, 0], plane[..., 0] // 255 * 7)


@pytest.mark.parametrize(
    ("values", "schema", "certain", "reason"),
    [
        ((255, 1), TWO, True, "any of 2 classes"),
        ((255, 1), ONE, True, "beside other labels"),
        ((255, -1), ONE, True, "beside other labels"),
        ((255,), ONE, False, "in another file"),
    ],
)
def test_255_that_may_be_something_else(tmp_path, itk_file, mend, values, schema, certain, reason):
    file = itk_file(tmp_path / "a.nii.gz", labels(*values, dtype=np.int16))
    done, target = mend(file, ["SK-V003"], schema, certain)
    assert done.mended == ()
    assert reason in done.left[0].message
    assert done.mixed == (schema is ONE and len(values) > 1)
    assert not target.exists()


@pytest.mark.parametrize(
    "schema",
    [
        LabelSchema(classes=ONE.classes, ignore_values=(255,)),
        LabelSchema(classes=(LabelClass(name="liver", value=255),)),
    ],
)
def test_255_that_is_declared_stays(tmp_path, itk_file, mend, schema):
    file = itk_file(tmp_path / "a.nii.gz", labels(255))
    done, target = mend(file, ["SK-V003"], schema)
    assert (done.mended, done.left) == ((), ())
    assert not target.exists()


def test_unknown_labels_stay(tmp_path, itk_file, mend):
    file = itk_file(tmp_path / "a.nii.gz", labels(255))
    assert mend(file, ["SK-V003"], None)[0].mended == ()


def test_masks_of_255_in_one_file(tmp_path, mend):
    masks = np.zeros((6, 5, 4, 2), np.uint8)
    masks[0, 0, 0] = 255, 1
    file = tmp_path / "a.nii.gz"
    nib.Nifti1Image(masks, np.diag([-1.0, -1, 2, 1])).to_filename(file)
    done, target = mend(file, ["SK-V003"], STRUCTURES)
    assert len(done.mended) == 1
    assert np.array_equal(read_masks(target).array, read_masks(file).array != 0)
    masks[1, 1, 1, 0] = 1
    nib.Nifti1Image(masks, np.diag([-1.0, -1, 2, 1])).to_filename(file)
    assert mend(file, ["SK-V003"], STRUCTURES)[0].mixed


def test_a_mask_of_255_in_a_label_folder(tmp_path, itk_file, mend):
    file = itk_file(tmp_path / "labelsTr" / "a" / "b.nii.gz", labels(255))
    done, target = mend(file, ["SK-V003"], STRUCTURES, label=file.parent)
    assert len(done.mended) == 1
    assert np.array_equal(read_labels(target).array[0], labels(1))


def test_255_among_bits_is_eight_structures(tmp_path, itk_file, mend):
    file = itk_file(tmp_path / "a.nii.gz", labels(255))
    assert mend(file, ["SK-V003"], STRUCTURES)[0].mended == ()


def test_rounding_noise(tmp_path, itk_file, mend):
    array = labels(7.004, 6.995, dtype=np.float32)
    file = itk_file(tmp_path / "a.nii.gz", array)
    done, target = mend(file, ["SK-V002"])
    assert done.mended[0].message == "2 voxels rounded, by at most 0.005"
    assert np.array_equal(read_labels(target).array[0], labels(7, 7))


def test_noise_and_255_together(tmp_path, itk_file, mend):
    file = itk_file(tmp_path / "a.nii.gz", labels(254.995, dtype=np.float32))
    done, target = mend(file, ["SK-V002"])
    assert [line.code for line in done.mended] == ["SK-V002", "SK-V003"]
    assert np.array_equal(read_labels(target).array[0], labels(7))


def test_fractions_are_no_noise(tmp_path, itk_file, mend):
    file = itk_file(tmp_path / "a.nii.gz", labels(7.004, 0.5, 0.25, dtype=np.float32))
    done, target = mend(file, ["SK-V002"])
    assert done.left[0].message == "2 voxels lie further than 0.01 from an integer"
    assert not target.exists()


def test_what_cannot_be_written_is_left(tmp_path, itk_file, mend):
    file = itk_file(tmp_path / "a.nii.gz", labels(7.004, -1, dtype=np.float32))
    done, target = mend(file, ["SK-V002"])
    assert done.mended == ()
    assert "below 0" in done.left[0].message
    assert not target.exists()


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_geometry_within_half_a_voxel(tmp_path, itk_file, mend, image, ending, dtype):
    array = np.random.default_rng(1).integers(0, 2, SHAPE).astype(dtype)
    array.flat[:2] = 7, -1 if dtype != np.uint8 else 0
    origin = np.add(ORIGIN, (0.2, 0, 0.3))
    file = itk_file(tmp_path / f"b{ending}", array, origin=origin)
    before = read_masks(file).array
    done, target = mend(file, ["SK-G003"])
    assert [line.code for line in done.mended] == ["SK-G003"]
    assert "at most 0.2 voxels" in done.mended[0].message
    after = read_masks(target)
    assert after.array.dtype == before.dtype
    assert after.array.tobytes() == before.tobytes()
    assert after.geometry == read_image([image]).geometry


def test_scaling_of_a_header_stays(tmp_path, mend, image):
    file = tmp_path / "b.nii"
    stored = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    affine = np.diag([-1.0, -1, 2, 1])
    affine[:3, 3] = -3.1, 2, 8
    made = nib.Nifti1Image(stored, affine)
    made.header.set_slope_inter(0.5, 3)
    made.header["descrip"] = b"a note"
    made.header.set_xyzt_units("mm", "sec")
    made.to_filename(file)
    done, target = mend(file, ["SK-G003"])
    assert len(done.mended) == 1
    assert target.read_bytes()[348:] == file.read_bytes()[348:]
    header = nib.load(target).header
    assert bytes(header["descrip"]).startswith(b"a note")
    assert header.get_xyzt_units() == ("mm", "sec")
    assert np.array_equal(nib.load(target).get_fdata(), nib.load(file).get_fdata())
    assert np.allclose(nib.load(target).affine, nib.load(image).affine)


def test_spacing_of_a_tiff_stack_lies_beside_it(tmp_path, itk_file, mend, image):
    write_labels(tmp_path / "b.tif", labels(7), Geometry(spacing_mm=(2.05, 1.0, 1.0)))
    (tmp_path / "b.json").write_text('{"spacing": [2.05, 1, 1], "by": "us"}')
    itk_file(image, read_image([image]).array[0])
    done, target = mend(tmp_path / "b.tif", ["SK-G002"])
    assert len(done.mended) == 1
    assert target.read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert json.loads(target.with_name("b.json").read_text()) == {"spacing": [2, 1, 1], "by": "us"}


@pytest.mark.parametrize(
    ("geometry", "far"),
    [
        ({"origin": np.add(ORIGIN, (0.5, 0, 0))}, "0.5"),
        ({"origin": (0.0, 0.0, 0.0)}, "4"),
        ({"origin": ORIGIN, "spacing": (1.0, 1.0, 2.4)}, "0.6"),
        ({"origin": ORIGIN, "direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}, "10"),
    ],
)
def test_geometry_that_is_another(tmp_path, itk_file, mend, geometry, far):
    file = itk_file(tmp_path / "b.nii.gz", labels(7), **geometry)
    done, target = mend(file, ["SK-G002", "SK-G003"])
    assert done.mended == ()
    assert [line.code for line in done.left] == ["SK-G002", "SK-G003"]
    assert f"up to {far} voxels" in done.left[0].message
    assert not target.exists()


def test_values_and_geometry_of_one_file(tmp_path, itk_file, mend, image):
    file = itk_file(tmp_path / "a.nii.gz", labels(255), origin=np.add(ORIGIN, 0.1))
    done, target = mend(file, ["SK-V003", "SK-G003"])
    assert [line.code for line in done.mended] == ["SK-V003", "SK-G003"]
    assert np.array_equal(read_labels(target).array[0], labels(7))
    assert read_labels(target).geometry == read_image([image]).geometry


@pytest.mark.parametrize("code", ["RAI", "PSL", "SAR", "LPI"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_another_orientation(tmp_path, itk_file, mend, image, code, ending, dtype):
    array = np.random.default_rng(1).integers(0, 99, SHAPE).astype(dtype)
    array.flat[0] = -1 if dtype != np.uint8 else 0
    origin = np.add(ORIGIN, (0.2, 0, 0.3))
    file = put_turned(tmp_path / f"b{ending}", itk_file, array, code, origin)
    done, target = mend(file, ["SK-G008"])
    assert [line.code for line in done.mended] == ["SK-G008"]
    assert "the axes are turned, then voxel centres differ by at most 0.2" in done.mended[0].message
    after = read_masks(target)
    assert after.array.dtype == dtype
    assert np.array_equal(after.array[0], array)
    assert after.geometry == read_image([image]).geometry


def put_turned(path, itk_file, array, code, origin=ORIGIN):
    """Store an array of the image's orientation in another one, at the same place."""
    spacing = (2.0, 1.0, 1.0)
    volume = Volume(array=array[None], geometry=Geometry(spacing_mm=spacing, origin=tuple(origin)))
    turned = reorient(volume, code)
    return itk_file(
        path,
        turned.array[0],
        spacing=turned.geometry.spacing_mm[::-1],
        origin=turned.geometry.origin,
        direction=turned.geometry.direction,
    )


def test_scaling_stays_in_another_orientation(tmp_path, itk_file, mend):
    file = put_turned(tmp_path / "b.nii", itk_file, labels(3, 4, 5, dtype=np.int16), "ASR")
    stored = nib.load(file, mmap=False)
    voxels, header = np.asanyarray(stored.dataobj), nib.Nifti1Header(endianness=">")
    made = nib.Nifti1Image(voxels.astype(">i2"), stored.affine, header)
    made.set_data_dtype(np.int16)
    made.header.set_slope_inter(0.5, 3)
    made.header["descrip"] = b"a note"
    made.to_filename(file)
    before = read_masks(file)
    done, target = mend(file, ["SK-G008"])
    assert len(done.mended) == 1
    assert np.array_equal(read_masks(target).array, reorient(before, "LPS").array)
    written = nib.load(target)
    header = written.header
    assert (written.dataobj.slope, written.dataobj.inter) == (0.5, 3)
    assert header.get_data_dtype() == np.dtype(">i2")
    assert bytes(header["descrip"]).startswith(b"a note")


def test_masks_in_another_orientation(tmp_path, mend, image):
    masks = np.random.default_rng(1).integers(0, 2, (2, *SHAPE)).astype(np.uint8)
    geometry = read_image([image]).geometry
    turned = reorient(Volume(array=masks, geometry=geometry), "SAR")
    for ending in (".nii.gz", ".nrrd"):
        write_masks(tmp_path / f"b{ending}", turned.array, turned.geometry)
        done, target = mend(tmp_path / f"b{ending}", ["SK-G008"], schema=STRUCTURES)
        assert len(done.mended) == 1
        assert np.array_equal(read_masks(target).array, masks)
        assert read_masks(target).geometry == geometry


def test_values_in_another_orientation(tmp_path, itk_file, mend, image):
    file = put_turned(tmp_path / "a.nii.gz", itk_file, labels(255), "SAR")
    done, target = mend(file, ["SK-V003", "SK-G008"])
    assert [line.code for line in done.mended] == ["SK-V003", "SK-G008"]
    assert np.array_equal(read_labels(target).array[0], labels(7))
    assert read_labels(target).geometry == read_image([image]).geometry


def test_corners_tell_for_all_voxels():
    rng = np.random.default_rng(3)
    for _ in range(20):
        grids = [random_grid(rng) for _ in range(2)]
        far = farthest_centres(*(grid.geometry for grid in grids), grids[0].shape)
        assert far == pytest.approx(brute_force(*grids))


def random_grid(rng):
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    geometry = Geometry(
        spacing_mm=tuple(rng.uniform(0.5, 3, 3)),
        origin=tuple(rng.normal(size=3)),
        direction=tuple(rotation.ravel()),
    )
    return Volume(array=np.zeros((1, 2, 3, 4)), geometry=geometry)


def brute_force(volume, image):
    def world(geometry, xyz):
        matrix = np.reshape(geometry.direction, (3, 3)) @ np.diag(geometry.spacing_mm[::-1])
        return matrix, matrix @ xyz + geometry.origin

    farthest = 0.0
    for z, y, x in itertools.product(*map(range, volume.shape)):
        _, place = world(volume.geometry, np.array([x, y, z]))
        matrix, theirs = world(image.geometry, np.array([x, y, z]))
        farthest = max(farthest, np.abs(np.linalg.inv(matrix) @ (place - theirs)).max())
    return farthest


def test_nearest_neighbour_resampling_would_be_the_identity(tmp_path, itk_file):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 9, SHAPE).astype(np.uint8)
    image = sitk.ReadImage(str(itk_file(tmp_path / "i.nrrd", array)))
    far = np.array([SAME_VOXEL, -SAME_VOXEL, SAME_VOXEL]) * (1, 1, 2) * 0.999
    label = sitk.ReadImage(str(itk_file(tmp_path / "l.nrrd", array, origin=far)))
    outside = 77
    moved = sitk.Resample(label, image, sitk.Transform(), sitk.sitkNearestNeighbor, outside)
    assert np.array_equal(sitk.GetArrayFromImage(moved), array)


def test_what_cannot_be_read_is_left(tmp_path, itk_file, image, mend):
    file = itk_file(tmp_path / "a.nii.gz", labels(1), origin=(3.1, -2.0, 8.0))
    image.write_bytes(b"no image")
    done, target = mend(file, ["SK-G003"])
    assert done.mended == ()
    assert [line.code for line in done.left] == ["SK-G003"]
    assert "a_0000.nii.gz: not a readable" in done.left[0].message
    assert not target.exists()


def test_a_region_of_interest_is_no_label(tmp_path, itk_file, image):
    file = itk_file(tmp_path / "masksTr" / "a.nii.gz", labels(255, 255), origin=ORIGIN)
    job = FileJob(
        file=file,
        name="masksTr/a.nii.gz",
        target=tmp_path / "new" / "a.nii.gz",
        case=Case(id="a", images=(image,), label=None, mask=file),
        problems=(problem("SK-V003", "wrong", where=file, fix="", case="a"),),
    )
    assert mend_file(ONE, None, True, job).mended == ()
