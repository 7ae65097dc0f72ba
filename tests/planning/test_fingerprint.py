import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from segkit.dataset.cases import training_cases
from segkit.dataset.description import load_description
from segkit.errors import UserError
from segkit.planning import fingerprint as module
from segkit.planning.fingerprint import (
    axis_permutation,
    dataset_hash,
    description_hash,
    extract_fingerprint,
    fingerprint_hash,
    load_fingerprint,
    save_fingerprint,
    update_fingerprint,
)


def write(path, array_zyx, spacing_zyx=(1.0, 1.0, 1.0), orientation="LPS"):
    image = sitk.GetImageFromArray(array_zyx)
    image.SetSpacing(spacing_zyx[::-1])
    if orientation != "LPS":
        image = sitk.DICOMOrient(image, orientation)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def write_case(folder, name, image, label, **geometry):
    for channel, array in enumerate(image):
        path = folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz"
        write(path, array.astype(np.float32), **geometry)
    write(folder / "labelsTr" / f"{name}.nii.gz", label.astype(np.uint8), **geometry)


def write_json(folder, channels=1, **extra):
    content = {
        "channel_names": {str(c): "MR" for c in range(channels)},
        "labels": {"background": 0, "organ": 5, "tumour": 7, "ignore": 9},
        "numTraining": len(list((folder / "labelsTr").iterdir())),
        "file_ending": ".nii.gz",
        **extra,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    description = load_description(folder)
    return description, training_cases(description)


def random_case(seed, shape=(6, 8, 10), channels=1):
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 10, size=(channels, *shape))
    label = rng.choice([0, 5, 7, 9], size=shape)
    return image, label


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "Dataset001_Toy"


def test_one_case_by_hand(folder):
    image, label = np.zeros((1, 4, 5, 6)), np.zeros((4, 5, 6))
    image[0, 1:3, 1:4, 2:6] = 1
    image[0, 1, 1, 2:5] = 10, 20, 60
    image[0, 2, 2, 2] = 1000
    label[1, 1, 2:5] = 5, 7, 7
    label[2, 2, 2] = 9  # nobody annotated the bright voxel
    label[0, 0, 0] = 5  # a label on black
    write_case(folder, "a", image, label, spacing_zyx=(3.0, 2.0, 1.0))
    found = extract_fingerprint(*write_json(folder), jobs=1)
    (case,) = found.cases
    assert case.case == "a"
    assert case.shape == (4, 5, 6)
    assert case.shape_after_crop == (2, 3, 4)
    assert case.spacing_mm == (3, 2, 1)
    assert case.orientation == found.orientation == "LPS"
    assert (case.labelled_voxels, case.labelled_in_zero) == (4, 1)
    assert found.labelled_share_in_zero == 0.25
    assert found.median_relative_size_after_crop == pytest.approx(24 / 120)
    (statistics,) = found.intensities
    values = [0, 10, 20, 60]
    assert statistics.mean == pytest.approx(np.mean(values))
    assert statistics.std == pytest.approx(np.std(values))
    assert (statistics.min, statistics.median, statistics.max) == pytest.approx((0, 15, 60))
    assert statistics.percentile_99_5 == pytest.approx(np.percentile(values, 99.5), rel=1e-4)


def test_zeros_that_the_image_encloses_are_no_black(folder):
    image, label = random_case(0)
    image[0, 1:4, 1:5, 1:5] = 0
    label[1:4, 1:5, 1:5] = 5
    write_case(folder, "a", image, label)
    assert extract_fingerprint(*write_json(folder), jobs=1).labelled_share_in_zero == 0


def test_a_channel_each(folder):
    image, label = random_case(0, channels=2)
    write_case(folder, "a", image, label)
    found = extract_fingerprint(*write_json(folder, channels=2), jobs=1)
    for channel, statistics in zip(image, found.intensities, strict=True):
        assert statistics.mean == pytest.approx(channel[np.isin(label, [5, 7])].mean())


def test_the_number_of_jobs_changes_nothing(folder):
    for i in range(3):
        write_case(folder, f"case{i}", *random_case(i, shape=(5 + i, 8, 9)))
    description, cases = write_json(folder)
    alone = extract_fingerprint(description, cases, jobs=1)
    assert extract_fingerprint(description, cases, jobs=2) == alone
    assert [case.shape[0] for case in alone.cases] == [5, 6, 7]


def test_mixed_orientations_meet_at_the_majority(folder):
    image, label = random_case(1)
    write_case(folder, "a", image, label, spacing_zyx=(3.0, 2.0, 1.0))
    write_case(folder, "b", image, label, spacing_zyx=(3.0, 2.0, 1.0))
    write_case(folder, "c", image, label, spacing_zyx=(3.0, 2.0, 1.0), orientation="PIR")
    found = extract_fingerprint(*write_json(folder), jobs=1)
    assert [case.orientation for case in found.cases] == ["LPS", "LPS", "PIR"]
    assert found.orientation == "LPS"
    assert {case.shape for case in found.cases} == {(6, 8, 10)}
    assert {case.spacing_mm for case in found.cases} == {(3, 2, 1)}


def test_axis_permutation():
    assert axis_permutation("LPS", "RAI") == (0, 1, 2)
    assert axis_permutation("LPS", "SPL") == (2, 1, 0)
    # PIR: x runs to P, y to I, z to R; the z axis of LPS runs to S.
    assert axis_permutation("PIR", "LPS") == (1, 2, 0)


def count_measured(monkeypatch):
    measured = []
    original = module.measure_case
    monkeypatch.setattr(
        module, "measure_case", lambda *args: measured.append(args[-1][0].id) or original(*args)
    )
    return measured


def test_only_changed_cases_are_read_again(folder, monkeypatch):
    for i, orientation in enumerate(["LPS", "LPS", "PIR"]):
        write_case(folder, f"case{i}", *random_case(i), orientation=orientation)
    description, cases = write_json(folder)
    first = extract_fingerprint(description, cases, jobs=1)
    path = folder / "fingerprint.json"
    save_fingerprint(path, first, made_from=dataset_hash(description, cases))
    previous = load_fingerprint(path)
    assert previous == first
    measured = count_measured(monkeypatch)
    assert extract_fingerprint(description, cases, jobs=1, previous=previous) == first
    assert measured == []
    write_case(folder, "case1", *random_case(7, shape=(9, 9, 9)))
    second = extract_fingerprint(description, cases, jobs=1, previous=previous)
    assert measured == ["case1"]
    assert second == extract_fingerprint(description, cases, jobs=1)
    # Without the two LPS cases nothing is mixed, and the third keeps its own axes.
    alone = extract_fingerprint(description, cases[2:], jobs=1, previous=previous)
    assert alone == extract_fingerprint(description, cases[2:], jobs=1)


def test_update_keeps_the_file_current(folder, monkeypatch, caplog):
    write_case(folder, "a", *random_case(0))
    description, cases = write_json(folder)
    path = folder / "work" / "fingerprint.json"
    first = update_fingerprint(path, description, cases, jobs=1)
    assert load_fingerprint(path) == first
    assert fingerprint_hash(load_fingerprint(path)) == fingerprint_hash(first)
    assert json.loads(path.read_text())["made_from"] == dataset_hash(description, cases)
    measured, before = count_measured(monkeypatch), path.stat().st_mtime_ns
    assert update_fingerprint(path, description, cases, jobs=1) == first
    assert (measured, path.stat().st_mtime_ns) == ([], before)
    path.write_text("{")
    assert update_fingerprint(path, description, cases, jobs=1) == first
    assert load_fingerprint(path) == first
    assert "is made again" in caplog.text


def test_other_labels_make_every_case_new(folder, monkeypatch):
    write_case(folder, "a", *random_case(0))
    description, cases = write_json(folder)
    first = extract_fingerprint(description, cases, jobs=1)
    measured = count_measured(monkeypatch)
    labels = {"background": 0, "organ": 5, "tumour": 7, "vessel": 9}
    changed, _ = write_json(folder, labels=labels)
    second = extract_fingerprint(changed, cases, jobs=1, previous=first)
    assert measured == ["a"]
    assert second.cases[0].labelled_voxels > first.cases[0].labelled_voxels


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"name": "other", "numTraining": 9}, True),
        ({"overwrite_image_reader_writer": "NibabelIO"}, False),
        ({"labels": {"background": 0, "organ": 7, "tumour": 5, "ignore": 9}}, False),
        ({"labels": {"background": 0, "organ": 5, "tumour": 7}}, False),
        ({"labels": {"background": 0, "organ": 2, "tumour": 1}, "label_encoding": "multilabel"}
         | {"unannotated": {"a": ["organ"]}}, False),
    ],
)  # fmt: skip
def test_description_hash_follows_what_is_measured(folder, changes, same):
    write_case(folder, "a", *random_case(0))
    before, _ = write_json(folder)
    assert (description_hash(write_json(folder, **changes)[0]) == description_hash(before)) == same


def test_dataset_hash_follows_files_and_description(folder):
    write_case(folder, "a", *random_case(0))
    description, cases = write_json(folder)
    before = dataset_hash(description, cases)
    assert dataset_hash(*write_json(folder)) == before
    assert dataset_hash(*write_json(folder, name="other")) != before
    write_case(folder, "a", *random_case(1))
    assert dataset_hash(description, cases) != before


def test_no_foreground_anywhere_takes_the_valid_voxels(folder, caplog):
    image, _ = random_case(0)
    image[0, :, :, :5] = 0
    write_case(folder, "a", image, np.zeros(image.shape[1:]))
    with caplog.at_level(logging.WARNING, logger="segkit"):
        found = extract_fingerprint(*write_json(folder), jobs=1)
    assert "no case has a labelled voxel" in caplog.text
    assert found.intensities[0].mean == pytest.approx(image[image != 0].mean())
    assert found.labelled_share_in_zero == 0


def test_cases_without_foreground_do_not_count_where_others_have_some(folder):
    write_case(folder, "a", *random_case(0))
    image, label = random_case(1)
    write_case(folder, "b", image + 1000, 0 * label)
    write_case(folder, "c", 0 * image, 0 * label)
    description, cases = write_json(folder)
    found = extract_fingerprint(description, cases, jobs=1)
    assert found.intensities == extract_fingerprint(description, cases[:1], jobs=1).intensities
    assert found.cases[2].shape_after_crop == (6, 8, 10)


def refused(folder, **changes):
    description, cases = write_json(folder)
    with pytest.raises(UserError) as caught:
        extract_fingerprint(replace(description, **changes), cases, jobs=1)
    assert caught.value.where
    return caught.value.what


def test_too_few_channels(folder):
    write_case(folder, "a", *random_case(0))
    what = refused(folder, channel_names=("MR", "CT"))
    assert what == "the image has 1 channel(s), dataset.json names 2"


def test_image_and_label_of_different_shape(folder):
    image, label = random_case(0)
    write_case(folder, "a", image, label[1:])
    assert refused(folder).startswith(
        "[SK-G001] shape (5, 8, 10) (z, y, x) differs from (6, 8, 10)"
    )


def test_a_label_that_lies_elsewhere_is_noted(folder):
    write_case(folder, "a", *random_case(0))
    path = folder / "labelsTr" / "a.nii.gz"
    label = sitk.ReadImage(str(path))
    label.SetOrigin((5.0, 5.0, 5.0))
    sitk.WriteImage(label, str(path))
    (case,) = extract_fingerprint(*write_json(folder), jobs=1).cases
    assert len(case.notes) == 1
    assert case.notes[0].startswith("[SK-G003] the origin lies 8.66 voxels")


def test_values_that_are_not_finite(folder):
    image, label = random_case(0)
    image[0, 0, 0, 0] = np.nan
    write_case(folder, "a", image, label)
    # ITK's NIfTI reader turns NaN into 0 by itself; nibabel shows it.
    assert "NaN" in refused(folder, reader="NibabelIO")


def test_undeclared_label(folder):
    image, label = random_case(0)
    write_case(folder, "a", image, label + 100)
    assert "not declared" in refused(folder)


def test_every_image_black(folder):
    image, label = random_case(0)
    write_case(folder, "a", 0 * image, 0 * label)
    assert "zero everywhere" in refused(folder)


def test_hippocampus(shared_data):
    description = load_description(shared_data("Dataset004_Hippocampus"))
    cases = training_cases(description)[:4]
    found = extract_fingerprint(description, cases, jobs=1)
    assert found.orientation == found.cases[0].orientation
    assert {case.spacing_mm for case in found.cases} == {(1, 1, 1)}
    assert found.intensities[0].percentile_00_5 < found.intensities[0].percentile_99_5


def test_a_reader_that_reorients_asks_for_its_orientation(folder):
    write_case(folder, "a", *random_case(0))
    found = extract_fingerprint(
        *write_json(folder, overwrite_image_reader_writer="NibabelIOWithReorient"), jobs=1
    )
    assert (found.orientation, found.cases[0].orientation) == ("RAS", "LPS")


def test_classes_are_counted_where_they_are_known(folder):
    image, label = np.zeros((1, 4, 5, 6)), np.zeros((4, 5, 6))
    image[0, 1:3, 1:4, 2:6] = 1
    label[1, 1, 2:5] = 5, 7, 7
    label[2, 2, 2:4] = 9  # nobody annotated these two
    label[0, 0, 0] = 5  # a label on black is known
    write_case(folder, "a", image, label)
    found = extract_fingerprint(*write_json(folder), jobs=1)
    assert found.class_names == ("organ", "tumour")
    (case,) = found.cases
    assert case.class_voxels == (2, 2)
    assert case.annotated_voxels == (24 - 2 + 1,) * 2
    assert case.combinations == {}


def test_overlapping_structures_and_their_combinations(folder):
    image, _ = random_case(0, shape=(2, 3, 4))
    label = np.zeros((2, 3, 4))
    label[0, 0] = 1, 3, 3, 7
    label[1, 1] = 4, 0, 1, 1
    write_case(folder, "a", image, label)
    write_case(folder, "b", image, label)
    labels = {"background": 0, "whole": 1, "front": 2, "back": 4}
    description, cases = write_json(
        folder, labels=labels, label_encoding="multilabel", unannotated={"b": ["front"]}
    )
    found = extract_fingerprint(description, cases, jobs=1)
    a, b = found.cases
    assert (a.labelled_voxels, a.class_voxels, a.annotated_voxels) == (7, (6, 3, 2), (24, 24, 24))
    assert a.combinations == {"whole": 3, "whole+front": 2, "whole+front+back": 1, "back": 1}
    # Nobody looked for the front in b: it is neither there nor absent.
    assert (b.class_voxels, b.annotated_voxels) == ((6, 0, 2), (24, 0, 24))
    assert b.combinations == {"whole": 5, "whole+back": 1, "back": 1}


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0)])
def test_a_mask_that_lies_elsewhere_is_told(folder, spacing):
    image, label = random_case(0)
    write_case(folder, "a", image, label)
    mask = write(folder / "masksTr" / "a.nii.gz", np.ones_like(label, np.uint8), spacing, "RAS")
    shift(mask, 7.0)
    if spacing != (1.0, 1.0, 1.0):
        with pytest.raises(UserError, match="SK-G002"):
            extract_fingerprint(*write_json(folder), jobs=1)
        return
    (case,) = extract_fingerprint(*write_json(folder), jobs=1).cases
    assert [note[:8] for note in case.notes] == ["[SK-G003", "[SK-G004"]
    assert "masksTr/a.nii.gz" in case.notes[0]


def shift(path, mm):
    image = sitk.ReadImage(str(path))
    image.SetOrigin([value + mm for value in image.GetOrigin()])
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize(
    "name", ["labelsTr/a.nii.gz", "masksTr/a.nii.gz", "imagesTr/a_0001.nii.gz"]
)
def test_another_orientation_than_the_image_is_refused(folder, name):
    image, label = random_case(0)
    write_case(folder, "a", np.concatenate([image, image])[:2], label)
    write(folder / name, label.astype(np.uint8), orientation="LAS")
    with pytest.raises(UserError, match="SK-G008") as caught:
        extract_fingerprint(*write_json(folder, channels=2), jobs=1)
    assert str(caught.value.where).endswith(name)


def test_every_structure_of_a_folder_is_compared_with_the_image(folder):
    image, label = random_case(0)
    write_case(folder, "a", image, label)
    (folder / "labelsTr" / "a.nii.gz").unlink()
    for name, spacing in (("organ", (1.0, 1.0, 1.0)), ("tumour", (1.0, 1.0, 2.0))):
        write(folder / "labelsTr" / "a" / f"{name}.nii.gz", (label > 5).astype(np.uint8), spacing)
    labels = {"background": 0, "organ": 1, "tumour": 2}
    written = write_json(folder, labels=labels, label_encoding="multilabel")
    with pytest.raises(UserError, match="SK-G002") as caught:
        extract_fingerprint(*written, jobs=1)
    assert str(caught.value.where).endswith("a/tumour.nii.gz")
