import json
import math

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from segkit.dataset.image_io import (
    KNOWN_ENDINGS,
    READERS,
    ending_of,
    read_header,
    read_image,
    read_labels,
    read_masks,
    required_orientation,
    write_labels,
    write_masks,
)
from segkit.dataset.image_io.image2d_io import PLANE
from segkit.errors import UserError
from segkit.types import Geometry

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl")
REAL = (
    "Dataset004_Hippocampus",
    "Dataset110_BraTS2015",
    "Dataset130_TotalSegCT",
    "Dataset132_SpleenCropMSD",
    "Dataset150_SpinalCordMixed",
    "Dataset151_SpinalCordGM",
)
ROTATION = tuple(Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix().ravel())


def geometry_by_itk(path):
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def nifti(path, array_xyz, affine, *, codes=(1, 1), qform=None, zooms=None):
    image = nib.Nifti1Image(array_xyz, None)
    image.header.set_sform(affine, codes[0])
    image.header.set_qform(affine if qform is None else qform, codes[1])
    image.header.set_zooms(zooms or np.linalg.norm(affine[:3, :3], axis=0)[: array_xyz.ndim])
    image.to_filename(path)
    return path


def ramp(*shape):
    return np.arange(np.prod(shape)).reshape(shape).astype(np.int16)


# ---------------------------------------------------------------- reading


def test_axes_and_spacing_are_z_y_x(tmp_path, itk_file):
    path = itk_file(tmp_path / "a.nii.gz", ramp(3, 4, 5), spacing=(0.5, 0.75, 2.0))
    volume = read_image([path])
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array, ramp(1, 3, 4, 5))
    assert volume.geometry.spacing_mm == (2.0, 0.75, 0.5)
    assert volume.geometry.orientation() == "LPS"


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_all_volume_formats_read_alike(tmp_path, itk_file, ending):
    path = itk_file(tmp_path / f"a{ending}", ramp(3, 4, 5), spacing=(0.5, 0.75, 2.0))
    volume = read_labels(path)
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array[0], ramp(3, 4, 5))
    assert volume.geometry.spacing_mm == (2.0, 0.75, 0.5)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_plane_has_one_slice_far_from_the_next(tmp_path, itk_file, ending):
    path = itk_file(tmp_path / f"a{ending}", ramp(4, 5), spacing=(0.5, 0.75), origin=(1.0, 2.0))
    volume = read_image([path])
    assert volume.array.shape == (1, 1, 4, 5)
    assert volume.geometry.spacing_mm == (999 * 0.75, 0.75, 0.5)
    assert volume.geometry.stored_ndim == 2
    out = tmp_path / f"out{ending}"
    write_labels(out, np.ones((1, 4, 5), np.int16), volume.geometry)
    assert geometry_by_itk(out) == geometry_by_itk(path)


@pytest.mark.parametrize(
    "axes",
    [
        np.diag([-0.8, -0.8, 3.0]),
        np.array([[-0.8, 0, 0], [0, 0, 3.0], [0, 0.8, 0]]),
        np.reshape(ROTATION, (3, 3)) * [0.8, 0.7, 3.0],
    ],
    ids=["axial", "coronal", "oblique"],
)
def test_a_plane_lies_in_space_where_it_lay(tmp_path, axes):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, (100, -20, 50)
    path = nifti(tmp_path / "a.nii.gz", ramp(6, 5), affine)
    volume = read_image([path])
    assert volume.geometry.origin == pytest.approx((-100, 20, 50))
    assert read_header(path).geometry == volume.geometry
    out = tmp_path / "out.nii.gz"
    write_labels(out, volume.array[0].astype(np.int16), volume.geometry)
    before, after = nib.load(path), nib.load(out)
    assert np.array_equal(after.get_fdata(), ramp(6, 5))
    assert after.header.get_zooms() == before.header.get_zooms()
    # The length of the third column means nothing in a plane: there is no next slice.
    for column in (0, 1, 3):
        assert after.affine[:, column] == pytest.approx(before.affine[:, column], abs=1e-5)


def test_first_axis_of_a_4d_image_is_the_channel(tmp_path):
    array = np.random.default_rng(0).normal(size=(5, 4, 3, 2)).astype(np.float32)
    path = nifti(tmp_path / "a.nii.gz", array, np.diag([1.0, 2, 3, 1]), zooms=(1, 2, 3, 1))
    for reader in (None, "NibabelIO"):
        assert np.array_equal(read_image([path], reader).array, array.T)
        assert read_image([path], reader).geometry.spacing_mm == (3, 2, 1)
    assert read_header(path).channels == 2
    with pytest.raises(UserError, match="one channel; this file holds 2"):
        read_labels(path)


def test_files_of_a_case_are_stacked(tmp_path, itk_file):
    files = [itk_file(tmp_path / f"a_{i:04d}.nrrd", ramp(2, 3, 4) + i) for i in range(2)]
    assert np.array_equal(read_image(files).array, [ramp(2, 3, 4), ramp(2, 3, 4) + 1])


@pytest.mark.parametrize(
    ("shape", "spacing", "what"),
    [((2, 3, 5), (1.0, 1.0, 2.0), "shape"), ((2, 3, 4), (1.0, 1.01, 2.0), "spacing")],
)
def test_channels_on_different_grids_are_refused(tmp_path, itk_file, shape, spacing, what):
    files = [
        itk_file(tmp_path / "a_0000.nii.gz", ramp(2, 3, 4)),
        itk_file(tmp_path / "a_0001.nii.gz", ramp(*shape), spacing=spacing),
    ]
    with pytest.raises(UserError, match=f"{what} .* differs") as caught:
        read_image(files)
    assert caught.value.where == files[1]


def test_scaled_voxels_are_scaled(tmp_path):
    image = nib.Nifti1Image(ramp(5, 4, 3), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(tmp_path / "a.nii.gz")
    expected = nib.load(tmp_path / "a.nii.gz").get_fdata().T[None]
    assert np.array_equal(read_image([tmp_path / "a.nii.gz"]).array, expected)
    assert np.array_equal(read_labels(tmp_path / "a.nii.gz", "NibabelIO").array, expected)


def test_nan_and_infinity_come_as_they_are(tmp_path, itk_file):
    array = np.array([[[1, np.nan, np.inf]]], np.float32)
    for ending in VOLUME_ENDINGS:
        path = itk_file(tmp_path / f"a{ending}", array)
        assert np.array_equal(read_image([path]).array[0], array, equal_nan=True)


@pytest.mark.parametrize("dtype", ["complex64", [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_that_are_no_numbers_are_refused(tmp_path, dtype):
    nib.Nifti1Image(np.zeros((3, 4, 5), dtype), np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(UserError, match="cannot use voxels"):
        read_image([tmp_path / "a.nii.gz"])


def test_fractional_labels_stay_fractional(tmp_path, itk_file):
    path = itk_file(tmp_path / "a.nii.gz", np.full((2, 3, 4), 0.5, np.float32))
    assert read_labels(path).array.dtype == np.float32


def test_readers_agree_and_reorientation_is_left_to_the_plan(tmp_path):
    affine = np.diag([-1.0, 2, 3, 1])
    path = nifti(tmp_path / "a.nii.gz", ramp(5, 4, 3), affine)
    plain = read_image([path])
    for reader in ("SimpleITKIO", "NibabelIO", "SimpleITKIOWithReorient", "NibabelIOWithReorient"):
        volume = read_image([path], reader)
        assert np.array_equal(volume.array, plain.array)
        assert volume.geometry == plain.geometry
    assert required_orientation("NibabelIOWithReorient") == "RAS"
    assert required_orientation("NibabelIO") is required_orientation(None) is None


# ---------------------------------------------------------------- refusals


def test_unknown_readers_and_endings_are_refused(tmp_path, itk_file):
    path = itk_file(tmp_path / "a.nrrd", ramp(2, 3, 4))
    with pytest.raises(UserError, match="did you mean 'SimpleITKIO'"):
        read_image([path], "SimpleItkIO")
    with pytest.raises(UserError, match=r"NibabelIO does not read \.nrrd"):
        read_image([path], "NibabelIO")
    (tmp_path / "a.dcm").write_text("x")
    with pytest.raises(UserError, match=r"unknown image format '\.dcm'"):
        read_image([tmp_path / "a.dcm"])
    assert {ending for _, endings in READERS.values() for ending in endings} == set(KNOWN_ENDINGS)


def test_endings_are_told_in_any_case(tmp_path):
    assert ending_of(tmp_path / "A.NII.GZ") == ".nii.gz"
    assert ending_of(tmp_path / "a.b.nii") == ".nii"


@pytest.mark.parametrize("ending", KNOWN_ENDINGS)
def test_missing_empty_and_foreign_files_name_themselves(tmp_path, ending):
    path = tmp_path / f"case_0000{ending}"
    for content, what in (
        (None, "not found"),
        (b"", "empty"),
        (b"no image at all" * 30, "not a re"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=what) as caught:
            read_image([path])
        assert caught.value.where == path
        assert caught.value.fix


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_truncated_volumes_are_refused(tmp_path, itk_file, ending, share):
    noise = np.random.default_rng(0).integers(0, 200, (6, 17, 18)).astype(np.int16)
    path = itk_file(tmp_path / f"a{ending}", noise)
    victim = path.with_suffix(".raw") if ending == ".mhd" else path
    content = victim.read_bytes()
    victim.write_bytes(content[: int(share * len(content))])
    for reader in (None, "NibabelIO") if "nii" in ending else (None,):
        with pytest.raises(UserError) as caught:
            read_image([path], reader)
        assert caught.value.where == path


def test_gzip_of_several_members_is_complete(tmp_path):
    # bgzip writes such files; the size in the last member's trailer is not that of the whole.
    plain = nifti(tmp_path / "a.nii", ramp(5, 4, 3), np.eye(4)).read_bytes()
    import gzip

    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(plain[:400]) + gzip.compress(plain[400:]) + gzip.compress(b""))
    assert np.array_equal(read_image([path], "NibabelIO").array[0], ramp(5, 4, 3).T)
    assert np.array_equal(read_image([path]).array[0], ramp(5, 4, 3).T)


@pytest.mark.parametrize("seed", range(6))
def test_nifti_files_lie_where_itk_puts_them(tmp_path, itk_file, seed):
    rng = np.random.default_rng(seed)
    direction = Rotation.random(random_state=seed).as_matrix() * rng.choice([-1, 1], 3)
    spacing, origin = rng.uniform(0.3, 6, 3).tolist(), rng.uniform(-300, 300, 3).tolist()
    path = tmp_path / "a.nii.gz"
    itk_file(path, ramp(3, 4, 5), spacing, origin, direction.ravel().tolist())
    geometry, (_, *expected) = read_image([path]).geometry, geometry_by_itk(path)
    assert geometry.spacing_mm == expected[0][::-1]
    assert geometry.origin == expected[1]
    assert np.allclose(geometry.direction, expected[2], rtol=0, atol=1e-6)


# ---------------------------------------------------------------- what is written back


@pytest.mark.parametrize("name", REAL)
def test_written_geometry_equals_every_real_file_exactly(shared_data, tmp_path, name):
    files = sorted(shared_data(name).glob("*Tr/*.nii.gz"))
    for file in files[:: max(1, len(files) // 40)]:
        geometry = read_image([file]).geometry
        size = sitk.ReadImage(str(file)).GetSize()
        out = tmp_path / "out.nii.gz"
        write_labels(out, np.zeros(size[::-1], np.uint8), geometry)
        assert geometry_by_itk(out) == geometry_by_itk(file), file
        ours, theirs = nib.load(out), nib.load(file)
        assert np.array_equal(ours.affine, theirs.affine), file
        assert ours.header.get_zooms() == theirs.header.get_zooms()[:3], file
        assert ours.shape == theirs.shape[:3]
        assert read_labels(out).geometry == geometry


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_written_geometry_and_values_equal_the_input(tmp_path, itk_file, ending):
    origin = (100 * math.pi, -1000 * math.e, 1 / 7)
    direction = None if ending == ".gipl" else ROTATION
    path = tmp_path / f"in{ending}"
    itk_file(path, ramp(3, 4, 5), (0.1234567890123, 1 / 3, 2 / 3), origin, direction)
    before = read_labels(path)
    labels = (ramp(3, 4, 5) % 7).astype(np.int16)
    out = tmp_path / "out" / f"a{ending}"
    write_labels(out, labels, before.geometry)
    after = read_labels(out)
    assert np.array_equal(after.array[0], labels)
    if ending == ".nrrd":  # stores spacing times direction; what comes apart again rounds
        assert np.allclose(after.geometry.direction, before.geometry.direction, 0, 1e-15)
        assert np.allclose(after.geometry.spacing_mm, before.geometry.spacing_mm, 1e-15)
        return
    assert after.geometry == before.geometry
    assert geometry_by_itk(out) == geometry_by_itk(path)


@pytest.mark.parametrize("shear", [0.5, 0.003])
def test_sheared_affines_survive(tmp_path, shear):
    affine = np.diag([2.0, 3, 4, 1])
    affine[0, 1] = shear
    path = nifti(tmp_path / "a.nii.gz", ramp(5, 6, 7), affine, zooms=(2, 3, 4))
    for reader in (None, "NibabelIO"):
        geometry = read_image([path], reader).geometry
        assert geometry.spacing_mm == (4, 3, 2)
        write_labels(tmp_path / "out.nii.gz", np.zeros((7, 6, 5), np.uint8), geometry)
        assert np.array_equal(nib.load(tmp_path / "out.nii.gz").affine, nib.load(path).affine)
        assert geometry_by_itk(tmp_path / "out.nii.gz") == geometry_by_itk(path)


def test_voxel_sizes_that_contradict_the_affine_survive(tmp_path):
    affine = np.diag([2.0, 3, 4, 1])
    path = nifti(tmp_path / "a.nii.gz", ramp(5, 6, 7), affine, zooms=(2.1, 3, 4))
    geometry = read_image([path]).geometry
    write_labels(tmp_path / "out.nii.gz", np.zeros((7, 6, 5), np.uint8), geometry)
    out = nib.load(tmp_path / "out.nii.gz")
    assert np.array_equal(out.affine, affine)
    assert out.header.get_zooms() == nib.load(path).header.get_zooms()
    assert geometry_by_itk(tmp_path / "out.nii.gz") == geometry_by_itk(path)


@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 2), (0, 1), (1, 0), (2, 0), (0, 0)])
def test_whichever_affine_itk_takes_is_written(tmp_path, codes):
    affine = np.diag([2.0, 3, 4, 1])
    other = affine.copy()
    other[0, 3] = 50
    path = nifti(tmp_path / "a.nii.gz", ramp(5, 6, 7), affine, codes=codes, qform=other)
    write_labels(tmp_path / "o.nii.gz", np.zeros((7, 6, 5), np.uint8), read_image([path]).geometry)
    assert geometry_by_itk(tmp_path / "o.nii.gz") == geometry_by_itk(path)


@pytest.mark.parametrize(
    ("highest", "dtype"),
    [(0, "uint8"), (255, "uint8"), (256, "uint16"), (65535, "uint16"), (65536, "int32")],
)
def test_smallest_type_that_holds_the_labels(tmp_path, highest, dtype):
    path = tmp_path / "a.nii.gz"
    labels = np.array([[[0, highest]]], dtype=np.int64)
    write_labels(path, labels, Geometry(spacing_mm=(1.0, 1.0, 1.0)))
    assert nib.load(path).get_data_dtype() == dtype
    assert np.array_equal(read_labels(path).array[0], labels)


def test_equal_labels_give_equal_bytes_and_no_litter(tmp_path):
    geometry = Geometry(spacing_mm=(1.0, 1.0, 1.0))
    for name in ("a", "b"):
        write_labels(tmp_path / f"{name}.nii.gz", np.ones((2, 3, 4), np.uint8), geometry)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_metaimage_pairs_are_written_together(tmp_path):
    geometry = Geometry(spacing_mm=(3.0, 2.0, 1.0))
    write_labels(tmp_path / "a.mhd", np.ones((2, 3, 4), np.uint8), geometry)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mhd", "a.zraw"]
    assert read_labels(tmp_path / "a.mhd").geometry == geometry


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text(json.dumps({}))
    with pytest.raises(UserError, match="cannot write the file"):
        write_labels(
            tmp_path / "file" / "a.nii.gz",
            np.zeros((1, 1, 1), np.uint8),
            Geometry(spacing_mm=(1.0, 1.0, 1.0)),
        )


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_several_masks_come_back_with_the_geometry_of_a_label_map(tmp_path, ending, count):
    geometry = Geometry(spacing_mm=(3.1, 1.2, 0.7), origin=(1.5, -2.25, 7.0), direction=ROTATION)
    masks = np.random.default_rng(count).integers(0, 2, (count, 4, 5, 6)).astype(np.uint8)
    write_masks(tmp_path / f"masks{ending}", masks, geometry)
    write_labels(tmp_path / f"one{ending}", masks[0], geometry)
    found, one = read_masks(tmp_path / f"masks{ending}"), read_labels(tmp_path / f"one{ending}")
    assert found.array.dtype == np.uint8
    np.testing.assert_array_equal(found.array, masks)
    assert found.geometry == one.geometry


def test_several_masks_are_the_fourth_axis_of_a_nifti_file(tmp_path):
    masks = np.random.default_rng(0).integers(0, 2, (2, 4, 5, 6)).astype(np.uint8)
    write_masks(tmp_path / "a.nii.gz", masks, Geometry(spacing_mm=(3.0, 2.0, 1.0)))
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.shape == (6, 5, 4, 2)
    assert image.header.get_zooms()[:3] == (1, 2, 3)
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 1], masks[1].T)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_masks_of_a_plane(tmp_path, ending):
    masks = np.random.default_rng(0).integers(0, 2, (3, 1, 5, 6)).astype(np.uint8)
    write_masks(tmp_path / f"a{ending}", masks, PLANE)
    np.testing.assert_array_equal(read_masks(tmp_path / f"a{ending}").array, masks)


@pytest.mark.parametrize("ending", [".png", ".tif", ".gipl", ".jpg"])
def test_formats_that_hold_one_mask_are_refused(tmp_path, ending):
    with pytest.raises(UserError, match="cannot hold several masks"):
        write_masks(tmp_path / f"a{ending}", np.zeros((3, 1, 5, 6), np.uint8), PLANE)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_labels_beyond_31_bits_come_back(tmp_path, ending):
    labels = np.array([0, 1, 2**31, 2**61 + 1]).reshape(1, 1, 4)
    write_labels(tmp_path / f"a{ending}", labels, Geometry(spacing_mm=(1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(read_labels(tmp_path / f"a{ending}").array[0], labels)
