import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import (
    SHAPE,
    describe,
    labels_of,
    noise,
    put_image,
    put_label_folder,
    put_labels,
    put_mask,
    write_itk,
)

from segkit.dataset.cases import (
    Case,
    case_identity,
    find_cases,
    find_images,
    image_hash,
    images_to_predict,
    largest_case,
    training_cases,
)
from segkit.dataset.description import load_description
from segkit.errors import UserError


def described(folder, content, **changes):
    (folder / "dataset.json").write_text(json.dumps({**content, **changes}))
    return load_description(folder)


def codes(description):
    return sorted(found.code for found in find_cases(description)[1])


def test_cases_are_found_in_order(dataset):
    cases = training_cases(load_description(dataset))
    assert [case.id for case in cases] == ["a", "b", "c"]
    assert [file.name for file in cases[1].images] == ["b_0000.nii.gz"]
    assert cases[1].label == dataset / "labelsTr" / "b.nii.gz"


def test_hidden_and_companion_files_are_nobodys_business(dataset):
    (dataset / "imagesTr" / ".DS_Store").write_text("x")
    (dataset / "imagesTr" / "a.json").write_text("{}")
    assert codes(load_description(dataset)) == []


def test_everything_wrong_is_told_at_once(dataset):
    (dataset / "imagesTr" / "a_0000.nii.gz").rename(dataset / "imagesTr" / "a.nii.gz")
    (dataset / "imagesTr" / "b_0001.nii.gz").write_bytes(b"x")
    (dataset / "labelsTr" / "c.nii.gz").unlink()
    (dataset / "imagesTr" / "notes.txt").write_text("x")
    description = load_description(dataset)
    assert codes(description) == ["SK-F003", "SK-F005", "SK-F006", "SK-F007", "SK-F009"]
    with pytest.raises(UserError) as caught:
        training_cases(description)
    for part in ("3 problems", "rename it to a_0000.nii.gz", "no channel 1", "labelsTr/c.nii.gz"):
        assert part in str(caught.value)


def test_missing_channel_names_the_file(dataset, content):
    description = described(dataset, content, channel_names={"0": "FLAIR", "1": "T1c"})
    problems = find_cases(description)[1]
    assert {found.code for found in problems} == {"SK-F004"}
    assert problems[0].where.endswith("imagesTr/a_0001.nii.gz")


def test_four_d_image_may_hold_all_channels(dataset, content, itk_file):
    for case in "abc":
        file = dataset / "imagesTr" / f"{case}_0000.nii.gz"
        itk_file(file, np.zeros((2, 4, 5, 6), np.float32), spacing=(1.0, 1.0, 2.0, 1.0))
    description = described(dataset, content, channel_names={"0": "FLAIR", "1": "T1c"})
    assert len(training_cases(description)) == 3


def test_label_with_a_channel_number_is_recognised(dataset):
    (dataset / "labelsTr" / "a.nii.gz").rename(dataset / "labelsTr" / "a_0000.nii.gz")
    (found,) = find_cases(load_description(dataset))[1]
    assert found.code == "SK-F006"
    assert "rename a_0000.nii.gz to a.nii.gz" in found.fix


def test_wrong_count_is_a_warning(dataset, content):
    assert codes(described(dataset, content, numTraining=5)) == ["SK-F008"]


def test_wrong_ending_names_what_is_there(dataset, content):
    (first, second) = find_cases(described(dataset, content, file_ending=".nrrd"))[1]
    assert first.code == second.code == "SK-F002"
    assert ".nii.gz" in first.message


def test_missing_folder_is_an_error(dataset):
    (dataset / "labelsTr").rename(dataset / "labels")
    assert codes(load_description(dataset)) == ["SK-F001"]


def test_explicit_cases_follow_variables_and_relative_paths(dataset, content, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", str(dataset / "labelsTr"))
    entry = {"images": ["imagesTr/a_0000.nii.gz"], "label": "$ELSEWHERE/a.nii.gz"}
    description = described(dataset, content, numTraining=1, dataset={"first": entry})
    (case,) = training_cases(description)
    assert case.id == "first"
    assert case.label == dataset / "labelsTr" / "a.nii.gz"


def test_explicit_cases_with_missing_files_are_refused(dataset, content):
    entry = {"images": ["imagesTr/a_0000.nii.gz"], "label": "nowhere.nii.gz"}
    description = described(dataset, content, numTraining=1, dataset={"first": entry})
    with pytest.raises(UserError, match=r"nowhere\.nii\.gz"):
        training_cases(description)


def test_images_to_predict_from_folder_file_and_files(dataset):
    description = load_description(dataset)
    folder = dataset / "imagesTr"
    assert [case.id for case in images_to_predict([folder], description)] == ["a", "b", "c"]
    (case,) = images_to_predict([folder / "b_0000.nii.gz"], description)
    assert (case.id, case.label) == ("b", None)
    files = [folder / "c_0000.nii.gz", folder / "a_0000.nii.gz"]
    assert [case.id for case in images_to_predict(files, description)] == ["a", "c"]


@pytest.mark.parametrize("name", ["scan", "patient_0007", "patient_12"])
def test_one_channel_needs_no_channel_number(dataset, tmp_path, name):
    target = tmp_path / "new" / f"{name}.nii.gz"
    target.parent.mkdir()
    target.write_bytes((dataset / "imagesTr" / "a_0000.nii.gz").read_bytes())
    (case,) = images_to_predict([target], load_description(dataset))
    assert case.id == name


def test_same_case_from_two_places_is_refused(dataset):
    folder = dataset / "imagesTr"
    (dataset / "imagesTs").mkdir()
    twin = dataset / "imagesTs" / "a_0000.nii.gz"
    twin.write_bytes((folder / "a_0000.nii.gz").read_bytes())
    with pytest.raises(UserError, match="SK-F013"):
        images_to_predict([folder, twin], load_description(dataset))


def test_nothing_to_predict_is_refused(dataset, tmp_path):
    description = load_description(dataset)
    (tmp_path / "empty").mkdir()
    (tmp_path / "scan.mha").write_text("x")
    with pytest.raises(UserError, match="no file ends with"):
        images_to_predict([tmp_path / "empty"], description)
    with pytest.raises(UserError, match="SK-F011"):
        images_to_predict([tmp_path / "nowhere"], description)
    with pytest.raises(UserError, match="SK-F014"):
        images_to_predict([tmp_path / "scan.mha"], description)


def test_rgb_image_is_a_case_of_three_channels(tmp_path, content):
    channels = {"0": "R", "1": "G", "2": "B"}
    description = described(tmp_path, content, channel_names=channels, file_ending=".png")
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "photo.png")
    (case,) = images_to_predict([tmp_path / "photo.png"], description)
    assert case.id == "photo"


def test_identity_follows_names_and_contents(dataset):
    case = training_cases(load_description(dataset))[0]
    before = case_identity(case)
    assert before == case_identity(case)
    case.label.write_bytes(case.label.read_bytes() + b"x")
    assert case_identity(case) != before


def test_labels_may_be_folders_where_structures_overlap(dataset):
    describe(dataset, label_encoding="multilabel")
    put_label_folder(dataset, "a", liver=labels_of(1), tumour=labels_of())
    first, second, _ = training_cases(load_description(dataset))
    assert first.label == dataset / "labelsTr" / "a"
    assert [file.name for file in first.label_files()] == ["liver.nii.gz", "tumour.nii.gz"]
    assert second.label == dataset / "labelsTr" / "b.nii.gz"


def test_all_labels_may_be_folders(dataset):
    describe(dataset, label_encoding="multilabel")
    for case in "abc":
        put_label_folder(dataset, case, liver=labels_of(1), tumour=labels_of())
    assert codes(load_description(dataset)) == []
    describe(dataset)
    assert codes(load_description(dataset)) == ["SK-F006"] * 3


def test_masks_are_optional_and_by_case(dataset, content):
    path = put_mask(dataset, "b", labels_of(1))
    masks = [case.mask for case in training_cases(load_description(dataset))]
    assert masks == [None, path, None]
    entry = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    cases = {"x": entry, "y": {**entry, "mask": "masksTr/b.nii.gz"}}
    described(dataset, content, numTraining=2, dataset=cases)
    assert [case.mask for case in training_cases(load_description(dataset))] == [None, path]


def test_mask_is_part_of_the_identity(dataset):
    before = case_identity(training_cases(load_description(dataset))[0])
    put_mask(dataset, "a", labels_of(1))
    assert case_identity(training_cases(load_description(dataset))[0]) != before


def test_unannotated_structures_reach_their_case(dataset):
    describe(dataset, label_encoding="multilabel", unannotated={"b": ["tumour"]})
    cases = training_cases(load_description(dataset))
    assert [case.unannotated for case in cases] == [(), ("tumour",), ()]


def test_cases_that_cannot_be_named_are_left_out(dataset, content):
    entry = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    description = described(dataset, content, numTraining=2, dataset={"x": entry, "../y": entry})
    cases, problems = find_cases(description)
    assert [case.id for case in cases] == ["x"]
    assert [found.code for found in problems] == ["SK-F015"]


def test_files_macos_leaves_behind_are_nobodys_business(dataset):
    (dataset / "imagesTr" / "._a_0000.nii.gz").write_bytes(b"x")
    assert codes(load_description(dataset)) == []


def test_number_of_cases_is_checked_beside_warnings(dataset, content):
    put_labels(dataset, "d", labels_of(1))
    assert codes(described(dataset, content, numTraining=4)) == ["SK-F007", "SK-F008"]


def test_problems_name_the_json_that_was_read(dataset, content):
    """A folder may have several descriptions."""
    entry = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    changes = {"label_encoding": "multilabel", "unannotated": {"z": ["liver"]}}
    other = dataset / "other.json"
    other.write_text(json.dumps({**content, **changes, "dataset": {"-x": entry, "a/b": entry}}))
    problems = {found.code: found.where for found in find_cases(load_description(other))[1]}
    assert problems["SK-F015"] == problems["SK-F016"] == str(other)
    assert problems["SK-F025"] == f"{other}, key unannotated"


def test_structures_can_be_unannotated_in_test_cases(dataset, content):
    """Their labels lie in labelsTs, for the evaluation."""
    write_itk(dataset / "imagesTs" / "x_0000.nii.gz", noise())
    write_itk(dataset / "labelsTs" / "y.nii.gz", labels_of(1))
    write_itk(dataset / "labelsTs" / "z" / "liver.nii.gz", labels_of(1))
    unlooked = {case: ["tumour"] for case in "axyz"}
    changes = {"label_encoding": "multilabel", "unannotated": {**unlooked, "w": ["liver"]}}
    (found,) = find_cases(described(dataset, content, **changes))[1]
    assert (found.code, found.message) == ("SK-F025", "there is no case 'w'")
    assert found.fix.endswith("a, b, c, x, y, z")


def test_identity_and_size_follow_the_files_beside(tmp_path):
    image = write_itk(tmp_path / "a_0000.mhd", noise())
    label = write_itk(tmp_path / "a.tif", labels_of(1))
    case = Case(id="a", images=(image,), label=label)
    assert largest_case([case]) >= noise().nbytes // 2
    seen = [case_identity(case)]
    voxels = image.with_suffix(".raw")
    voxels.write_bytes(voxels.read_bytes()[::-1])
    seen.append(case_identity(case))
    (tmp_path / "a.json").write_text('{"spacing": [2, 1, 1]}')
    seen.append(case_identity(case))
    assert len(set(seen)) == 3


def test_masks_an_explicit_list_does_not_use_are_told(dataset, content):
    put_mask(dataset, "a", labels_of(1))
    entry = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    unused = described(dataset, content, numTraining=1, dataset={"a": entry})
    assert codes(unused) == ["SK-F027"]
    assert find_cases(unused)[0][0].mask is None
    entry["mask"] = "labelsTr/../masksTr/a.nii.gz"
    assert codes(described(dataset, content, numTraining=1, dataset={"a": entry})) == []


def test_paths_that_cannot_be_looked_at_are_told_one_by_one(dataset, content):
    entry = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    long = "a/" * 3000
    cases = {"a": entry, "b": {**entry, "label": long}, "c": {**entry, "mask": long}}
    found, problems = find_cases(described(dataset, content, numTraining=3, dataset=cases))
    assert [case.id for case in found] == ["a"]
    assert [(each.code, each.case) for each in problems] == [("SK-F010", "b"), ("SK-F010", "c")]
    assert "File name too long" in problems[0].message
    with pytest.raises(UserError, match="cannot be looked at"):
        images_to_predict([Path("x" * 300)], load_description(dataset))


@pytest.mark.parametrize("name", ["imagesTr", "labelsTr", "masksTr"])
def test_folders_that_cannot_be_listed_are_told(dataset, monkeypatch, name):
    put_mask(dataset, "a", labels_of(1))
    listing = Path.iterdir

    def refuse(path):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    problems = find_cases(load_description(dataset))[1]
    assert ("SK-F001", str(dataset / name)) in [(found.code, found.where) for found in problems]


def two_channels(dataset, content):
    """Cases a (both channels), b (the first only) and c (the second only)."""
    description = described(dataset, content, channel_names={"0": "T1", "1": "T2"})
    put_image(dataset, "a", noise(), number=1)
    (dataset / "imagesTr" / "c_0000.nii.gz").rename(dataset / "imagesTr" / "c_0001.nii.gz")
    return description


def test_channels_may_be_absent_where_a_model_allows_it(dataset, content):
    description = two_channels(dataset, content)
    cases, problems = find_images([dataset / "imagesTr"], description, may_lack_channels=True)
    assert problems == []
    assert {case.id: case.absent for case in cases} == {"a": (), "b": (1,), "c": (0,)}
    assert [len(case.images) for case in cases] == [2, 1, 1]
    # The same picture, as one channel or the other, is not the same case.
    first, second = (dataclasses.replace(cases[1], absent=absent) for absent in ((1,), (0,)))
    assert image_hash(first) != image_hash(second)
    cases, problems = find_images([dataset / "imagesTr"], description)
    assert [case.id for case in cases] == ["a"]
    assert {(found.code, found.case) for found in problems} == {("SK-F004", "b"), ("SK-F004", "c")}


def test_an_image_without_a_number_does_not_say_which_channel_it_is(dataset, content):
    description = two_channels(dataset, content)
    lone = dataset / "imagesTr" / "b_0000.nii.gz"
    lone = lone.rename(dataset / "imagesTr" / "b.nii.gz")
    cases, problems = find_images([lone], description, may_lack_channels=True)
    assert cases == ()
    assert [found.code for found in problems] == ["SK-F004"]


def test_one_file_may_hold_all_channels_where_some_may_be_absent(dataset, content, itk_file):
    description = two_channels(dataset, content)
    path = dataset / "both_0000.nii.gz"
    itk_file(path, noise((2, *SHAPE)), spacing=(1.0, 1.0, 2.0, 1.0))
    (case,), problems = find_images([path], description, may_lack_channels=True)
    assert (case.absent, problems) == ((), [])
