"""Label files: what is written comes back in every layout; regions of interest; refusals."""

import numpy as np
import pytest

from segkit.dataset import label_files
from segkit.dataset.cases import Case
from segkit.dataset.image_io import write_labels, write_masks
from segkit.dataset.image_io.image2d_io import PLANE
from segkit.dataset.label_files import (
    apply_mask,
    label_layout,
    label_path,
    label_sources,
    read_annotation,
    read_label_map,
    structure_files,
    write_label_map,
)
from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.errors import UserError
from segkit.types import Geometry, Volume

TILTED = Geometry(
    spacing_mm=(3.0, 0.5, 0.75), origin=(1.5, -20.0, 7.25), direction=(0, 1, 0, -1, 0, 0, 0, 0, 1)
)
CLASSES = LabelSchema(
    classes=(LabelClass(name="b", value=200), LabelClass(name="a", value=7)), ignore_values=(9,)
)


def structures(count, *names, **settings):
    names = names or tuple(f"s{i + 1}" for i in range(count))
    classes = tuple(LabelClass(name=name, value=i + 1) for i, name in enumerate(names))
    return LabelSchema(classes=classes[::-1], overlapping=True, **settings)


def random_labels(count, shape=(3, 4, 5), geometry=TILTED):
    array = np.random.default_rng(count).integers(0, 2, (count, *shape)).astype(np.int8)
    return Volume(array=array, geometry=geometry)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("layout", ["integers", "masks", "folder"])
@pytest.mark.parametrize("count", [2, 9, 17, 33])
def test_structures_come_back_in_every_layout(tmp_path, count, layout, ending):
    schema, labels = structures(count), random_labels(count)
    path = label_path(tmp_path / "out", "case", ending, layout)
    write_label_map(path, labels, schema, layout, ending)
    assert label_layout(path, schema) == layout
    found = read_label_map(path, schema)
    assert found.array.dtype == np.int8
    np.testing.assert_array_equal(found.array, labels.array)
    np.testing.assert_allclose(found.geometry.direction, TILTED.direction, atol=1e-12)
    assert found.geometry.spacing_mm == TILTED.spacing_mm
    assert found.geometry.origin == TILTED.origin


@pytest.mark.parametrize("layout", ["integers", "masks", "folder"])
def test_structures_left_out_are_written_as_absent(tmp_path, layout):
    schema, labels = structures(10), random_labels(10)
    some = schema.without(("s2", "s10"))
    kept = [structure.name not in ("s2", "s10") for structure in schema.classes]
    path = label_path(tmp_path, "case", ".nii.gz", layout)
    write_label_map(path, labels, schema, layout, ".nii.gz")
    np.testing.assert_array_equal(read_label_map(path, some).array, labels.array[kept])
    part = Volume(array=labels.array[kept], geometry=TILTED)
    write_label_map(path, part, some, layout, ".nii.gz")
    np.testing.assert_array_equal(read_label_map(path, some).array, part.array)
    assert not read_label_map(path, schema).array[np.logical_not(kept)].any()
    if layout == "folder":
        assert structure_files(path).keys() == {f"s{i}" for i in range(1, 11)}


@pytest.mark.parametrize("layout", ["integers", "folder"])
@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
def test_planes_come_back(tmp_path, ending, layout):
    schema, labels = structures(5), random_labels(5, (1, 4, 6), PLANE)
    path = label_path(tmp_path, "case", ending, layout)
    write_label_map(path, labels, schema, layout, ending)
    found = read_label_map(path, schema)
    np.testing.assert_array_equal(found.array, labels.array)
    assert found.geometry == PLANE


def test_classes_are_written_as_their_values_without_ignored_and_invalid_voxels(tmp_path):
    indices = np.array([-1, 0, 1, 2, 3], np.int16).reshape(1, 1, 1, 5)
    path = label_path(tmp_path, "case", ".nii.gz", "integers")
    write_label_map(path, Volume(array=indices, geometry=TILTED), CLASSES, "integers", ".nii.gz")
    found = read_label_map(path, CLASSES).array
    assert found.dtype == np.int16
    assert found.ravel().tolist() == [0, 0, 1, 2, 0]


@pytest.mark.parametrize("layout", ["integers", "masks", "folder"])
def test_invalid_and_ignored_structures_are_written_as_absent(tmp_path, layout):
    array = np.array([[-1, 0, 1, 2], [1, 2, 0, -1]], np.int8).reshape(2, 1, 1, 4)
    path, schema = label_path(tmp_path, "case", ".nii.gz", layout), structures(2)
    write_label_map(path, Volume(array=array, geometry=TILTED), schema, layout, ".nii.gz")
    found = read_label_map(path, schema).array
    assert found[:, 0, 0].tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "case"
    write_label_map(path, random_labels(3), structures(3), "folder", ".nii.gz")
    write_label_map(path, random_labels(3), structures(3), "folder", ".nrrd")
    assert sorted(file.name for file in path.iterdir()) == ["s1.nrrd", "s2.nrrd", "s3.nrrd"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [True, False])
def test_no_half_written_folder_stays_behind(tmp_path, monkeypatch, before):
    path, schema, labels = tmp_path / "case", structures(3), random_labels(3)
    if before:
        write_label_map(path, labels, schema, "folder", ".nii.gz")
    written = []

    def fail_at_the_second(*arguments):
        if written:
            raise UserError("disk full")
        written.append(write_labels(*arguments))

    monkeypatch.setattr(label_files, "write_labels", fail_at_the_second)
    empty = Volume(array=np.zeros_like(labels.array), geometry=TILTED)
    with pytest.raises(UserError, match="disk full"):
        write_label_map(path, empty, schema, "folder", ".nii.gz")
    assert list(tmp_path.iterdir()) == [path] * before
    if before:
        np.testing.assert_array_equal(read_label_map(path, schema).array, labels.array)


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    path = tmp_path / "case"
    path.mkdir()
    (path / "scan_0000.nii.gz").touch()
    with pytest.raises(UserError, match="scan_0000"):
        write_label_map(path, random_labels(2), structures(2), "folder", ".nii.gz")
    assert (path / "scan_0000.nii.gz").exists()


def test_unannotated_structures_are_ignored_and_need_no_file(tmp_path):
    schema, labels, path = structures(3), random_labels(3), tmp_path / "case"
    write_label_map(path, labels, schema, "folder", ".nii.gz")
    (path / "s1.nii.gz").unlink()
    with pytest.raises(UserError, match="no file for s1"):
        read_label_map(path, schema)
    found = read_label_map(path, schema, unannotated=("s1", "s2")).array  # declared s3, s2, s1
    np.testing.assert_array_equal(found[0], labels.array[0])
    assert (found[1:] == schema.ignore_index).all()
    assert (
        read_label_map(path, schema.without(("s3",)), unannotated=("s1", "s2")).array == 2
    ).all()
    bitmask = tmp_path / "case.nii.gz"
    write_label_map(bitmask, labels, schema, "integers", ".nii.gz")
    np.testing.assert_array_equal(
        read_label_map(bitmask, schema, unannotated=("s1", "s2")).array, found
    )


def test_masks_of_a_folder_on_different_grids_are_refused(tmp_path):
    write_label_map(tmp_path / "case", random_labels(2), structures(2), "folder", ".nii.gz")
    write_labels(tmp_path / "case" / "s2.nii.gz", np.zeros((3, 4, 6), np.uint8), TILTED)
    with pytest.raises(UserError, match=r"\(3, 4, 5\).*differs from \(3, 4, 6\)"):
        read_label_map(tmp_path / "case", structures(2))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no mask"):
        read_label_map(tmp_path, structures(2), unannotated=("s1", "s2"))


@pytest.mark.parametrize("schema", [CLASSES, structures(2)], ids=["classes", "structures"])
def test_outside_the_region_of_interest_is_ignored(tmp_path, schema):
    count = schema.seg_channels
    labels = random_labels(count)
    labels = Volume(array=labels.array, geometry=TILTED)
    write_label_map(tmp_path / "case.nii.gz", labels, schema, "integers", ".nii.gz")
    mask = np.random.default_rng(1).choice([0, 1, 5], (3, 4, 5))
    write_labels(tmp_path / "mask.nii.gz", mask, TILTED)
    case = Case(
        id="case",
        images=(),
        label=tmp_path / "case.nii.gz",
        mask=tmp_path / "mask.nii.gz",
        unannotated=("s1",),
    )
    found = read_annotation(case, schema).array
    assert found.dtype == (np.int8 if schema.overlapping else np.int16)
    assert (found[:, mask == 0] == schema.ignore_index).all()
    # Of the structures s1 is the second.
    np.testing.assert_array_equal(found[0][mask != 0], labels.array[0][mask != 0])
    assert (found[1:] == schema.ignore_index).all()


@pytest.mark.parametrize("schema", [CLASSES, structures(2)], ids=["classes", "structures"])
def test_several_masks_are_no_region_of_interest(tmp_path, schema):
    write_masks(tmp_path / "mask.nii.gz", np.eye(3, dtype=np.uint8).reshape(3, 1, 1, 3), TILTED)
    labels = Volume(array=np.ones((schema.seg_channels, 1, 1, 3), np.int8), geometry=TILTED)
    with pytest.raises(UserError, match=r"(?s)has one channel.*holds 3.*belong into labelsTr"):
        apply_mask(labels, tmp_path / "mask.nii.gz", schema)


def test_a_mask_on_another_grid_is_refused(tmp_path):
    write_label_map(tmp_path / "case.nii.gz", random_labels(1), CLASSES, "integers", ".nii.gz")
    write_labels(tmp_path / "mask.nii.gz", np.ones((3, 4, 6)), TILTED)
    case = Case(id="c", images=(), label=tmp_path / "case.nii.gz", mask=tmp_path / "mask.nii.gz")
    with pytest.raises(UserError, match="the mask has shape"):
        read_annotation(case, CLASSES)


@pytest.mark.parametrize("stray", ["preview.png", "atlas.nii.gz"])
def test_stray_files_in_a_label_folder_are_passed_over(tmp_path, stray):
    labels, path = random_labels(2), tmp_path / "case"
    write_label_map(path, labels, structures(2), "folder", ".nii.gz")
    write_labels(path / stray, np.zeros((1, 9, 9), np.uint8), PLANE)
    np.testing.assert_array_equal(read_label_map(path, structures(2)).array, labels.array)
    found = read_label_map(path, structures(2), unannotated=("s1", "s2"))
    assert (found.array == 2).all()
    assert found.shape == labels.shape
    for name in ("s1", "s2"):
        (path / f"{name}.nii.gz").unlink()
    with pytest.raises(UserError, match="no mask of a declared structure"):
        read_label_map(path, structures(2), unannotated=("s1", "s2"))


def test_two_files_for_one_structure_are_refused(tmp_path):
    labels, path = random_labels(2), tmp_path / "case"
    write_label_map(path, labels, structures(2), "folder", ".nii.gz")
    write_labels(path / "s2.nii", 1 - labels.array[0], TILTED)
    with pytest.raises(UserError, match=r"s2\.nii, s2\.nii\.gz"):
        read_label_map(path, structures(2))
    found = read_label_map(path, structures(2).without(("s2",))).array
    np.testing.assert_array_equal(found, labels.array[1:])


def test_sources_are_the_files_that_are_read(tmp_path):
    path = tmp_path / "case"
    write_label_map(path, random_labels(3), structures(3), "folder", ".nii.gz")
    (path / "notes.txt").touch()
    case = Case(id="case", images=(), label=path, unannotated=("s2",))
    names = [file.name for file in label_sources(case, structures(3))]
    assert names == ["s3.nii.gz", "s1.nii.gz"]
    one = Case(id="one", images=(), label=tmp_path / "one.nii.gz")
    assert label_sources(one, structures(3)) == (one.label,)
