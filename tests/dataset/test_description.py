import json
import pickle
import shlex
from pathlib import Path

import pytest

from segkit.dataset.checks.content import check_content
from segkit.dataset.description import command, load_description
from segkit.dataset.mending.content import mend_content
from segkit.dataset.problems import CODES
from segkit.errors import UserError


def codes(content):
    return sorted(found.code for found in check_content(content, "dataset.json"))


def fix_of(content, code):
    (fix,) = (p.fix for p in check_content(content, "dataset.json") if p.code == code)
    return fix


def labels_of(content, **labels):
    return {**content, "labels": labels}


REGIONS = {"background": 0, "whole": [1, 2, 5], "core": [2, 5], "enhancing": 5}


def test_good_content_has_no_problems(content):
    assert codes(content) == []


def test_description_holds_what_the_json_says(dataset, content):
    description = load_description(dataset)
    assert description == load_description(dataset / "dataset.json")
    assert description.name == "Dataset007_Toy"
    assert description.folder == dataset
    assert description.channel_names == ("CT",)
    assert [(c.name, c.value) for c in description.labels.classes] == [("liver", 1), ("tumour", 2)]
    assert (description.file_ending, description.num_training) == (".nii.gz", 3)
    assert description.reader is description.explicit_cases is None
    assert description.content == content
    assert pickle.loads(pickle.dumps(description)) == description


def test_hash_follows_the_content_and_not_its_layout(dataset, content):
    before = load_description(dataset).hash()
    (dataset / "dataset.json").write_text(json.dumps(content, indent=4, sort_keys=True))
    assert load_description(dataset).hash() == before
    (dataset / "dataset.json").write_text(json.dumps({**content, "numTraining": 4}))
    assert load_description(dataset).hash() != before


def test_channels_come_in_numeric_order(dataset, content):
    content["channel_names"] = {"10": "k", **{str(i): "abcdefghij"[i] for i in range(10)}}
    (dataset / "dataset.json").write_text(json.dumps(content))
    assert load_description(dataset).channel_names == tuple("abcdefghijk")


def test_all_problems_are_raised_as_one(dataset, content, caplog):
    content |= {"file_ending": "nii.gz", "labels": {"background": 1, "x": "2"}, "my_notes": 1}
    (dataset / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        load_description(dataset)
    for code in ("3 problems", "SK-D009", "SK-D022", "SK-D024"):
        assert code in str(caught.value)
    assert "SK-D006" in caplog.text


def test_one_problem_is_raised_plainly(dataset, content):
    del content["labels"]
    (dataset / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        load_description(dataset)
    assert caught.value.what == "[SK-D004] the key 'labels' is missing"
    assert caught.value.fix == 'add "labels": {"background": 0, "NAME": 1} with your own values'


def test_missing_file_and_broken_json(tmp_path):
    with pytest.raises(UserError, match="SK-D001"):
        load_description(tmp_path)
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0,}}')
    with pytest.raises(UserError, match=r"line 1 column 28|line 1 column 29"):
        load_description(tmp_path)


def test_all_doubled_keys_are_told(tmp_path):
    text = '{"labels": {"background": 0, "a": 1, "a": 2}, "numTraining": 1, "numTraining": 2}'
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError) as caught:
        load_description(tmp_path)
    message = str(caught.value)
    assert "the key 'a' occurs twice" in message
    assert "the key 'numTraining' occurs twice" in message
    assert "the key 'channel_names' is missing" in message


@pytest.mark.parametrize("content", [None, [], "x", 3])
def test_content_must_be_an_object(content):
    assert codes(content) == ["SK-D003"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"channel_names": {}}, ["SK-D008"]),
        ({"channel_names": {"1": "CT"}}, ["SK-D008"]),
        ({"channel_names": {"0": 3}}, ["SK-D008"]),
        ({"channel_names": ["CT", "PET"]}, ["SK-D008"]),
        ({"file_ending": ".dcm"}, ["SK-D009"]),
        ({"file_ending": 3}, ["SK-D009"]),
        ({"file_ending": ".jpg"}, ["SK-D013"]),
        ({"overwrite_image_reader_writer": "NibabelIo"}, ["SK-D010"]),
        ({"overwrite_image_reader_writer": 1}, ["SK-D010"]),
        ({"overwrite_image_reader_writer": "None"}, []),
        ({"overwrite_image_reader_writer": "NibabelIOWithReorient"}, []),
        ({"dataset": []}, ["SK-D011"]),
        ({"dataset": {"a": {"images": "x", "label": "y"}}}, ["SK-D011"]),
        ({"dataset": {"a": {"images": ["x"]}}}, ["SK-D011"]),
        ({"dataset": {"a": {"images": ["x"], "label": "y"}}}, []),
        ({"numTraining": "3"}, ["SK-D012"]),
        ({"numTraining": True}, ["SK-D012"]),
        ({"label_encoding": "multilabel"}, []),
        ({"label_encoding": None}, []),
        ({"label_encoding": "integers"}, []),
        ({"label_encoding": "onehot"}, ["SK-D014"]),
        ({"Ignore_Label": 9}, ["SK-D015"]),
        ({"dataset_id": 9, "Labels": {}}, ["SK-D006", "SK-D006"]),
        ({"my_own_notes": {}}, ["SK-D006"]),
        ({"name": "x", "licence": "y", "tensorImageSize": "3D", "citation": ""}, []),
        ({"$schema": "x.json", "unannotated": {}, "ignore_label": -1}, []),
        ({"labels": []}, ["SK-D020"]),
        ({"labels": {}}, ["SK-D020"]),
        ({"labels": {"background": 0}}, ["SK-D020"]),
    ],
)
def test_keys(content, changes, expected):
    assert codes({**content, **changes}) == expected


@pytest.mark.parametrize("key", ["channel_names", "labels", "file_ending"])
def test_missing_keys_are_errors(content, key):
    del content[key]
    assert codes(content) == ["SK-D004"]


def test_missing_num_training_is_a_warning(content):
    del content["numTraining"]
    assert codes(content) == ["SK-D005"]
    assert CODES["SK-D005"][0] == "warning"


def test_unknown_key_gets_the_nearest_name(content):
    content["chanel_names"] = content.pop("channel_names")
    assert "did you mean 'channel_names'?" in fix_of(content, "SK-D015")
    assert fix_of(content, "SK-D004") == "rename the key 'chanel_names' to 'channel_names'"


@pytest.mark.parametrize(
    ("changes", "code", "fix"),
    [
        ({"file_ending": "nii.gz"}, "SK-D009", 'write ".nii.gz"'),
        ({"file_ending": ".nii.gzip"}, "SK-D009", "did you mean '.nii.gz'?"),
        ({"channel_names": ["CT", "PET"]}, "SK-D008", 'write {"0": "CT", "1": "PET"}'),
        ({"labels": {"background": 0, "a": "1"}}, "SK-D024", 'write "a": 1'),
        ({"labels": {"background": 0, "a": 2.0}}, "SK-D024", 'write "a": 2'),
        (
            {"labels": {"0": "background", "1": "liver"}},
            "SK-D023",
            'write "labels": {"background": 0, "liver": 1}',
        ),
        (
            {"labels": {"Background": 0, "a": 1}},
            "SK-D021",
            'write "background": 0 in place of "Background": 0',
        ),
    ],
)
def test_remedies_show_the_mend(content, changes, code, fix):
    assert fix_of({**content, **changes}, code) == fix


def test_v1_format_is_one_problem_with_the_whole_mend():
    old = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver"},
        "numTraining": 2,
        "numTest": 0,
        "training": [],
        "test": [],
    }
    assert codes(old) == ["SK-D007", "SK-D023"]
    shown = '"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, \
"file_ending": ".nii.gz"'
    assert shown in fix_of(old, "SK-D007")
    assert codes(mend_content(old, Path("dataset.json"))[0]) == []


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"a": 1}, ["SK-D021"]),
        ({"background": 1, "a": 2}, ["SK-D022"]),
        ({"background": [0], "a": 1}, ["SK-D029"]),
        ({"background": "0", "a": 1}, ["SK-D037"]),
        ({"background": False, "a": 1}, ["SK-D037"]),
        ({"background": 0, "a": True}, ["SK-D024"]),
        ({"background": 0, "a": 1.5}, ["SK-D024"]),
        ({"background": 0, "a": None}, ["SK-D024"]),
        ({"background": 0, "a": -1}, ["SK-D025"]),
        ({"background": 0, "a": 1, "b": 1}, ["SK-D026"]),
        ({"background": 0, "a": 1, "b": [1]}, ["SK-D026"]),
        ({"background": 0, "a": 0}, ["SK-D027"]),
        ({"background": 0, "a": 2**31}, ["SK-D027"]),
        ({"background": 0, "a": 1, "ignore": 1}, ["SK-D028"]),
        ({"background": 0, "a": 1, "ignore": 0}, ["SK-D028"]),
        ({"background": 0, "a": 1, "ignore": "2"}, ["SK-D028"]),
        ({"background": 0, "a": 1, "ignore": [2]}, ["SK-D028"]),
        ({"background": 0, "a": 3, "ignore": 2}, []),
        ({"background": 0, "a": 7, "b": 300, "c": 5}, []),
        ({"0": "background", "1": "a", "2": "a"}, ["SK-D023"]),
        ({"0": "background", "1": "1", "2": "2"}, ["SK-D023"]),
        ({"0": "background", "a": 1}, ["SK-D023"]),
    ],
)
def test_labels(content, labels, expected):
    assert codes({**content, "labels": labels}) == expected


@pytest.mark.parametrize("ignore", [-1, 9, [9, -1], []])
def test_ignore_label_takes_one_or_several_values(content, ignore):
    assert codes({**content, "ignore_label": ignore}) == []


@pytest.mark.parametrize("ignore", [1, [9, 2], "9", None, [1.0], True])
def test_ignore_label_in_conflict(content, ignore):
    assert codes({**content, "ignore_label": ignore}) == ["SK-D028"]


def test_ignore_conflict_names_the_owner_and_a_free_value(content):
    (found,) = check_content({**content, "ignore_label": 2}, "dataset.json")
    assert 'a value of "tumour"' in found.message
    assert "such as 3" in found.fix


def test_regions_of_any_union_are_fine(content, dataset):
    good = {**content, "labels": REGIONS, "regions_class_order": [1, 2, 5]}
    assert codes(good) == []
    (dataset / "dataset.json").write_text(json.dumps(good))
    schema = load_description(dataset).labels
    assert [region.members for region in schema.regions] == [(1, 2, 5), (2, 5), (5,)]
    assert sorted(c.value for c in schema.classes) == [1, 2, 5]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("absent", ["SK-D030"]),
        ([1, 2], ["SK-D031"]),
        (5, ["SK-D031"]),
        ([1, 2, 3], ["SK-D032"]),
        ([0, 2, 5], ["SK-D032"]),
        ([1, 2, "5"], ["SK-D032"]),
        ([1, 2, True], ["SK-D032"]),
        ([1, 1, 5], ["SK-D036"]),
        ([2, 5, 5], ["SK-D049", "SK-D049"]),
    ],
)
def test_regions_class_order(content, order, expected):
    broken = {**content, "labels": REGIONS, "regions_class_order": order}
    if order == "absent":
        del broken["regions_class_order"]
    assert codes(broken) == expected


def test_a_region_hidden_by_the_one_around_it_is_refused_with_the_right_order(content):
    labels = {"background": 0, "core": [2, 5], "whole": [1, 2, 5], "enhancing": 5}
    broken = {**content, "labels": labels, "regions_class_order": [2, 1, 5]}
    (found,) = check_content(broken, "dataset.json")
    assert found.code == "SK-D035"
    assert '"whole" is painted after "core"' in found.message
    assert "whole, core, enhancing" in found.fix
    assert "[1, 2, 5]" in found.fix


@pytest.mark.parametrize("members", [[], [1, 1], [0, 1], [1, "2"], [1, -2]])
def test_malformed_regions(content, members):
    labels = {"background": 0, "odd": members, "whole": [1, 2]}
    found = codes({**content, "labels": labels, "regions_class_order": [1, 2]})
    assert "SK-D033" in found


def test_order_without_regions_is_a_warning(content):
    assert codes({**content, "regions_class_order": [1, 2]}) == ["SK-D034"]


@pytest.mark.parametrize(
    "value", [None, True, -1, 1.5, "x", [], {}, [None], {"background": None}, {"0": 1}, 10**400]
)
@pytest.mark.parametrize(
    "key",
    [
        *("channel_names", "labels", "file_ending", "numTraining", "regions_class_order"),
        *("ignore_label", "dataset", "overwrite_image_reader_writer", "label_encoding"),
        "unannotated",
    ],
)
def test_no_value_crashes_the_checks(content, key, value):
    for found in check_content({**content, key: value}, "dataset.json"):
        assert found.message
        assert found.fix
        assert found.severity == CODES[found.code][0]
    mend_content({**content, key: value}, Path("dataset.json"))


def test_commands_can_be_pasted_into_a_shell(tmp_path, content):
    folder = tmp_path / "my data"
    folder.mkdir()
    for name in ("dataset.json", "it's.json"):
        (folder / name).write_text(json.dumps(content))
    typed = command("plan", load_description(folder), "-c", "2d")
    assert typed == f"segkit plan '{folder}' -c 2d"
    typed = command("plan", load_description(folder / "it's.json"))
    assert shlex.split(typed) == ["segkit", "plan", str(folder / "it's.json")]


@pytest.mark.parametrize(
    "name", ["Dataset004_Hippocampus", "Dataset130_TotalSegCT", "Dataset151_SpinalCordGM"]
)
def test_real_descriptions_load(shared_data, name):
    description = load_description(shared_data(name))
    assert description.name == name
    assert description.labels.num_classes > 1
