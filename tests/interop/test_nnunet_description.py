"""nnU-Net's dataset.json: the same outputs in the same order."""

import pytest
from nnunet_files import DATASET

from segkit.dataset.description import describe
from segkit.errors import UserError
from segkit.interop.nnunet.description import model_description

REGIONS = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}


def described(tmp_path, reader="SimpleITKIO", **changes):
    content = model_description({**DATASET, **changes}, reader, "dataset.json")
    return describe(content, tmp_path / "dataset.json")


def test_labels_are_ordered_by_value_as_nnunet_orders_its_outputs(tmp_path):
    labels = {"ignore": 3, "b": 2, "background": 0, "a": [1]}
    found = described(tmp_path, labels=labels).labels
    assert found.output_names == ("background", "a", "b")
    assert found.ignore_values == (3,)


def test_regions_keep_their_order(tmp_path):
    found = described(tmp_path, labels=REGIONS, regions_class_order=[1, 2]).labels
    assert found.output_names == ("whole", "core")
    assert [region.paint for region in found.regions] == [1, 2]


def test_the_reader_of_the_plans_is_used_and_training_cases_are_not(tmp_path):
    found = described(
        tmp_path,
        "NibabelIO",
        overwrite_image_reader_writer="SimpleITKIO",
        dataset={"a": {"images": ["$HOME/a.nii.gz"], "label": "b.nii.gz"}},
    )
    assert (found.reader, found.explicit_cases) == ("NibabelIO", None)


def test_channels_may_be_called_modality(tmp_path):
    content = {key: value for key, value in DATASET.items() if key != "channel_names"}
    made = model_description({**content, "modality": {"0": "MR"}}, "SimpleITKIO", "dataset.json")
    assert describe(made, tmp_path / "dataset.json").channel_names == ("MR",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reader": "MyReader"}, "the image reader 'MyReader'"),
        ({"labels": {"background": 0, "a": 1, "b": 3}}, "[0, 1, 3]"),
        ({"labels": {"background": 0, "whole": [1, 4]}, "regions_class_order": [1]}, "[0, 1, 4]"),
        ({"labels": {"background": 0, "a": 1, "ignore": 5}}, "[0, 1, 5]"),
        ({"labels": {"background": 0, "a": "1"}}, "SK-D024"),
        ({"labels": 3}, "SK-D020"),
        ({"file_ending": None}, "SK-D009"),
    ],
)
def test_what_is_malformed_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        described(tmp_path, **changes)
    assert message in error.value.what


def test_no_object():
    with pytest.raises(UserError, match="expected keys and values"):
        model_description([], "SimpleITKIO", "dataset.json")
