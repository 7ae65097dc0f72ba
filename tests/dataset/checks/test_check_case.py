import gzip
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from tiny_dataset import (
    SHAPE,
    labels_of,
    noise,
    put_image,
    put_label_folder,
    put_labels,
    put_mask,
    write_itk,
)

from segkit.dataset.cases import Case
from segkit.dataset.checks.case import check_case
from segkit.dataset.checks.expectations import Expectations
from segkit.dataset.checks.label_values import check_label_values
from segkit.dataset.image_io import read_image, write_masks
from segkit.dataset.label_files import read_annotation
from segkit.dataset.labels import LabelSchema
from segkit.planning.measure import measure_case

LABELS = {"background": 0, "liver": 1, "tumour": 2}
CLASSES = LabelSchema.from_description(LABELS, {"ignore_label": 9})
STRUCTURES = LabelSchema.from_description(
    LABELS, {"label_encoding": "multilabel", "ignore_label": 9}
)


def expected(schema, channels=1):
    overlapping = schema.overlapping
    return Expectations(channels=channels, labels=schema, reader=None, overlapping=overlapping)


def codes(findings):
    return [found.code for found in findings.problems]


def random_masks(seed):
    """Return two masks with some ignored voxels, (2, Z, Y, X)."""
    rng = np.random.default_rng(seed)
    return rng.choice([0, 1, 9], size=(2, *SHAPE), p=[0.6, 0.3, 0.1]).astype(np.uint8)


def stored(folder, layout, masks):
    """Store masks in a layout; in a bitmask a voxel is ignored for all structures or for none."""
    bits = np.where((masks == 9).any(axis=0), 9, (masks == 1)[0] + 2 * (masks == 1)[1])
    if layout == "integers":
        return put_labels(folder, "a", bits.astype(np.uint8))
    if layout == "masks":
        return put_labels(folder, "a", masks)
    put_label_folder(folder, "a", liver=masks[0], tumour=masks[1])
    return folder / "labelsTr" / "a"


@pytest.mark.parametrize("layout", ["integers", "masks", "folder"])
@pytest.mark.parametrize("unannotated", [(), ("liver",)])
def test_labels_are_counted_as_they_are_read(tmp_path, layout, unannotated):
    masks = random_masks(3)
    image = noise()
    image[:, :3] = 0
    case = Case(
        id="a",
        images=(put_image(tmp_path, "a", image),),
        label=stored(tmp_path, layout, masks),
        mask=put_mask(tmp_path, "a", (noise() > 0).astype(np.uint8)),
        unannotated=unannotated,
    )
    found = check_label_values(expected(STRUCTURES), case)
    indices = read_annotation(Case(**{**vars(case), "mask": None}), STRUCTURES).array
    assert found.layout == layout
    assert found.present == {"liver", "tumour"} - set(unannotated)
    assert np.array_equal(found.labelled, (indices == 1).any(axis=0))
    assert np.array_equal(found.annotated, (indices != STRUCTURES.ignore_index).any(axis=0))
    checked = check_case(expected(STRUCTURES), case)
    measured = measure_case(STRUCTURES, None, ("CT",), (case, ""))
    assert checked.labelled_in_zero > 0
    assert checked.labelled_in_zero == measured.labelled_in_zero
    assert checked.labelled_voxels == measured.labelled_voxels


def test_labels_in_an_enclosed_hole_are_in_the_image(tmp_path):
    image, labels = noise(), labels_of()
    image[2, 2, 3] = image[0, 0, 0] = 0
    labels[2, 2, 3] = labels[0, 0, 0] = 1
    case = Case(
        id="a", images=(put_image(tmp_path, "a", image),), label=put_labels(tmp_path, "a", labels)
    )
    found = check_case(expected(CLASSES), case)
    assert (found.labelled_voxels, found.labelled_in_zero) == (2, 1)


def test_zero_in_one_channel_is_not_zero(tmp_path):
    dark = noise(seed=2)
    dark[0] = 0
    images = (put_image(tmp_path, "a", noise()), put_image(tmp_path, "a", dark, 1))
    case = Case(id="a", images=images, label=put_labels(tmp_path, "a", labels_of(1, 2)))
    assert check_case(expected(CLASSES, channels=2), case).labelled_in_zero == 0


def test_hash_follows_voxels_and_shape(tmp_path):
    def hashes(*arrays):
        images = tuple(put_image(tmp_path, "a", array, i) for i, array in enumerate(arrays))
        case = Case(id="a", images=images, label=None)
        return check_case(expected(CLASSES, channels=len(arrays)), case).image_hashes

    image = noise()
    whole = np.arange(120).reshape(SHAPE)
    assert hashes(image) == hashes(image.astype(np.float64))
    assert hashes(whole.astype(np.uint8)) == hashes(whole.astype(np.float32))
    assert hashes(image) != hashes(image.reshape(5, 4, 6))
    assert hashes(np.zeros(SHAPE, np.uint8)) == ()
    assert len(set(hashes(image, image, image + 1))) == 2


@pytest.mark.parametrize(
    ("shift", "codes_given", "told"),
    [(0.0, (1, 1), None), (0.05, (1, 1), None), (3.0, (1, 1), "the sform is used"),
     (3.0, (2, 1), "the qform is used"), (3.0, (2, 0), None), (3.0, (0, 1), None)],
)  # fmt: skip
def test_which_affine_is_used(tmp_path, shift, codes_given, told):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    image = nib.Nifti1Image(noise((6, 5, 4)), affine)
    image.set_qform(affine, codes_given[1])
    affine[1, 3] += shift
    image.set_sform(affine, codes_given[0])
    path = tmp_path / "a_0000.nii.gz"
    nib.save(image, path)
    found = check_case(expected(CLASSES), Case(id="a", images=(path,), label=None))
    assert codes(found) == ([] if told is None else ["SK-G007"])
    if told is not None:
        assert "up to 1.5 voxels" in found.problems[0].message
        assert told in found.problems[0].message


def test_headers_that_describe_no_grid_are_told(tmp_path):
    image = nib.Nifti1Image(noise((6, 5, 4)), np.eye(4))
    flat = np.eye(4)
    flat[:3, 1] = flat[:3, 0]
    image.header.set_sform(flat, 1)
    image.header.set_qform(None, 0)
    path = tmp_path / "a_0000.nii.gz"
    nib.save(nib.Nifti1Image(image.get_fdata(), None, image.header), path)
    found = check_case(expected(CLASSES), Case(id="a", images=(path,), label=None))
    assert codes(found) == ["SK-F010"]


@pytest.mark.parametrize("schema", [CLASSES, STRUCTURES])
def test_damaged_headers_never_raise(tmp_path, schema):
    rng = np.random.default_rng(0)
    good = gzip.decompress(put_labels(tmp_path, "a", labels_of(1, 2)).read_bytes())
    for _ in range(150):
        content = bytearray(good)
        for place in rng.integers(0, 352, size=rng.integers(1, 6)):
            content[place] = rng.integers(0, 256)
        path = tmp_path / "b.nii"
        path.write_bytes(content)
        check_case(expected(schema), Case(id="b", images=(path,), label=path, mask=path))


@pytest.mark.parametrize("spacing", [(0.5, 0.7), (0.5, 0.8)])
def test_masks_of_a_plane_have_a_third_axis_in_nifti(tmp_path, spacing):
    image = write_itk(tmp_path / "a_0000.nii.gz", noise((5, 6)), spacing=(0.5, 0.7))
    geometry = replace(read_image([image]).geometry, spacing_mm=(9.0, *spacing[::-1]))
    masks = np.ones((2, 1, 5, 6), np.uint8)
    label = tmp_path / "a.nii.gz"
    write_masks(label, masks, geometry)
    case = Case(id="a", images=(image,), label=label)
    found = check_case(expected(STRUCTURES), case)
    assert codes(found) == ([] if spacing == (0.5, 0.7) else ["SK-G002"])
    if not codes(found):
        assert measure_case(STRUCTURES, None, ("CT",), (case, "")).notes == ()
