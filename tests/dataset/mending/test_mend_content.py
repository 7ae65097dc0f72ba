import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.dataset.checks.content import OPTIONAL, REQUIRED, check_content
from segkit.dataset.mending.content import changes, equal_duplicates, mend_content

FILE = Path("/data/Dataset007_Toy/dataset.json")
REGIONS = {"background": 0, "core": [2, 3], "whole": [1, 2, 3]}


def mended(content):
    return mend_content(content, FILE)[0]


@pytest.mark.parametrize(
    ("faults", "mends", "codes"),
    [
        (
            {"labels": {"0": "background", "2": "liver"}},
            {"labels": {"background": 0, "liver": 2}},
            1,
        ),
        ({"labels": {"background": 0, "liver": "1"}}, {"labels": {"background": 0, "liver": 1}}, 1),
        ({"labels": {"background": 0, "liver": 1.0}}, {"labels": {"background": 0, "liver": 1}}, 1),
        ({"labels": {"background": "0", "a": "1"}}, {"labels": {"background": 0, "a": 1}}, 2),
        ({"labels": {"background": [0], "a": 1}}, {"labels": {"background": 0, "a": 1}}, 1),
        ({"labels": {"Background": 0, "a": 1}}, {"labels": {"background": 0, "a": 1}}, 1),
        ({"labels": {"a": 1, "b": 2}}, {"labels": {"background": 0, "a": 1, "b": 2}}, 1),
        ({"file_ending": "nii.gz"}, {"file_ending": ".nii.gz"}, 1),
        ({"channel_names": ["T1", "T2"]}, {"channel_names": {"0": "T1", "1": "T2"}}, 1),
        ({"ignore_label": "-1"}, {"ignore_label": -1}, 1),
    ],
)
def test_what_can_be_meant_in_one_way_only(content, faults, mends, codes):
    result, lines = mend_content({**content, **faults}, FILE)
    assert json.dumps(result) == json.dumps({**content, **faults, **mends})
    assert len(lines) == codes
    assert check_content(result, FILE) == []


def test_each_line_says_what_was_wrong_and_what_is_there_now(content):
    content["labels"]["liver"] = "1"
    _, (line,) = mend_content(content, FILE)
    assert line.code == "SK-D024"
    assert line.where == "dataset.json, key labels"
    assert '"1"' in line.message or "'1'" in line.message
    assert line.message.endswith("; labels: liver is now 1")


def test_nnunet_v1(content):
    del content["channel_names"], content["file_ending"]
    content["modality"] = {"0": "CT"}
    content["labels"] = {"0": "background", "1": "liver"}
    result, lines = mend_content(content, FILE)
    assert result["channel_names"] == {"0": "CT"}
    assert result["file_ending"] == ".nii.gz"
    assert result["labels"] == {"background": 0, "liver": 1}
    assert {"SK-D007", "SK-D023"} <= {line.code for line in lines}


def test_keys_in_another_spelling(content):
    count = content.pop("numTraining")
    names = content.pop("channel_names")
    result, lines = mend_content({**content, "num_training": count, "channelNames": names}, FILE)
    assert result["numTraining"] == count
    assert result["channel_names"] == names
    assert "SK-D004" in {line.code for line in lines}


def test_regions_are_painted_from_the_outermost_in(content):
    content |= {"labels": REGIONS, "regions_class_order": [3, 1]}
    result, lines = mend_content(content, FILE)
    assert list(result["labels"]) == ["background", "whole", "core"]
    assert result["regions_class_order"] == [1, 3]
    assert {line.code for line in lines} == {"SK-D035"}


@pytest.mark.parametrize("order", [None, [3, 2, 1], [1, 2], [1, 2, 9], "1 2 3", [1, 3, 3]])
def test_nested_regions_can_be_painted_in_one_way_only(content, order):
    content["labels"] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    given = {} if order is None else {"regions_class_order": order}
    assert mended({**content, **given})["regions_class_order"] == [1, 2, 3]


def test_regions_with_several_classes_of_their_own_can_be_painted_as_either(content):
    content["labels"] = {"background": 0, "whole": [1, 2, 3], "core": [3]}
    assert mend_content(content, FILE) == (content, [])
    assert check_content(content, FILE)[0].code == "SK-D030"


def test_members_and_order_of_regions_as_text(content):
    labels = {"background": 0, "whole": ["1", "2"], "core": ["2"]}
    result = mended({**content, "labels": labels, "regions_class_order": ["1", 2.0]})
    assert result["labels"] == {"background": 0, "whole": [1, 2], "core": [2]}
    assert json.dumps(result["regions_class_order"]) == "[1, 2]"


@pytest.mark.parametrize(
    "faults",
    [
        {"labels": {"background": 1, "liver": 0}},
        {"labels": {"nothing": 0, "liver": 1}},
        {"labels": {"liver": 1, "ignore": 0}},
        {"labels": {"background": 0, "liver": "one"}},
        {"labels": {"background": 0, "liver": 1.5}},
        {"labels": {"background": 0, "liver": True}},
        {"labels": {"background": 0, "a": 1, "b": 1}},
        {"labels": {"background": [0, 1], "a": 2}},
        {"labels": {"background": False, "a": 2}},
        {"labels": {}},
        {"labels": ["background", "liver"]},
        {"file_ending": ".dcm"},
        {"channel_names": "CT"},
        {"labelz": {}},
        # Two regions that overlap: which one is on top is for the user to say.
        {
            "labels": {"background": 0, "c": [1], "a": [1, 2], "b": [2, 3]},
            "regions_class_order": [1, 2, 3],
        },
    ],
)
def test_what_is_left_alone(content, faults):
    content |= faults
    assert check_content(content, FILE)
    result, lines = mend_content(content, FILE)
    assert json.dumps(result) == json.dumps(content)
    assert lines == []


def test_a_good_file_stays(content):
    assert mend_content(content, FILE) == (content, [])


def test_mending_twice_is_mending_once(content):
    broken = {**content, "labels": {"0": "background", "1": "liver"}, "file_ending": "nii.gz"}
    once = mended(broken)
    assert mend_content(once, FILE) == (once, [])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats(-2, 3)
    | st.text("01a .-", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["0", "1", "a", "Background", "ignore"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
KEYS = [*REQUIRED, *OPTIONAL, "modality", "num_training", "Labels", "other"]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5))
def test_whatever_is_written_mending_ends_and_another_time_finds_nothing(changed):
    base = {"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}}
    once, lines = mend_content({**base, **changed}, FILE)
    assert mend_content(once, FILE) == (once, [])
    assert (json.dumps(once) == json.dumps({**base, **changed})) == (not lines)


def test_changes_are_short():
    before = {"labels": {"a": 1, "b": "2"}, "x": 1}
    assert changes(before, {**before, "labels": {"a": 1, "b": 2}}) == "labels: b is now 2"
    labels = {"background": 0, "a": 1, "b": "2"}
    assert changes(before, {**before, "labels": labels}) == "labels: background is now 0"
    renamed = {"a": 1, "c": {"d": 2}}
    assert (
        changes(before, {**before, "labels": renamed})
        == 'labels: c is now {"d": 2}, labels: b is deleted'
    )
    nested = {"dataset": {"case": {"mask": "m", "label": "x"}}}
    moved = {"dataset": {"case": {"mask": "m", "label": "y"}}}
    assert changes(nested, moved) == 'dataset: case: label is now "y"'
    assert changes(before, {"labels": before["labels"], "y": 0}) == "y is now 0, x is deleted"
    turned = {"b": "2", "a": 1}
    assert changes(before, {**before, "labels": turned}) == "labels is in another order now"


def test_doubled_keys(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text('{"a": 1, "b": {"c": 2, "c": 2}, "a": 1}')
    assert equal_duplicates(path)
    path.write_text('{"a": 1, "b": {"c": 2, "c": 3}, "a": 1}')
    assert not equal_duplicates(path)
