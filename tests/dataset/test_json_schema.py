"""The JSON Schema for editors agrees with the checks."""

import json

import jsonschema
import pytest
from json_examples import MULTILABEL, PLAIN, REGIONS, VALID

from segkit.dataset.checks.content import (
    CASE_KEYS,
    ENCODINGS,
    HARMLESS,
    OPTIONAL,
    REQUIRED,
    check_content,
)
from segkit.dataset.description import SCHEMA_FILE
from segkit.dataset.image_io import KNOWN_ENDINGS, READERS

SCHEMA = json.loads(SCHEMA_FILE.read_text())
CHECKER = jsonschema.Draft202012Validator(SCHEMA)
KEYS = SCHEMA["properties"]


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_knows_the_keys_the_checks_know():
    assert KEYS.keys() == {*REQUIRED, *OPTIONAL, *HARMLESS}
    assert set(SCHEMA["required"]) == set(REQUIRED)
    assert KEYS["dataset"]["additionalProperties"]["properties"].keys() == set(CASE_KEYS)
    assert all("description" in entry for entry in KEYS.values())


def test_the_schema_knows_the_values_the_checks_know():
    assert KEYS["label_encoding"]["enum"] == [*ENCODINGS, None]
    assert KEYS["overwrite_image_reader_writer"]["enum"] == [*READERS, "None", None]
    assert KEYS["file_ending"]["anyOf"][0]["enum"] == list(KNOWN_ENDINGS)


@pytest.mark.parametrize("content", VALID.values(), ids=VALID)
def test_valid_files_are_accepted_by_both(content):
    CHECKER.validate(content)
    assert [p for p in check_content(content, "dataset.json") if p.severity == "error"] == []


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Dataset004_Hippocampus", "dataset.json"),
        ("Dataset110_BraTS2015", "dataset.json"),
        ("Dataset110_BraTS2015", "dataset_regions.json"),
        ("Dataset123_AxonMyelin", "dataset.json"),
        ("Dataset130_TotalSegCT", "dataset.json"),
        ("Dataset132_SpleenCropMSD", "dataset.json"),
        ("Dataset150_SpinalCordMixed", "dataset.json"),
        ("Dataset151_SpinalCordGM", "dataset.json"),
    ],
)
def test_real_files_are_accepted_by_both(shared_data, name, file):
    content = json.loads((shared_data(name) / file).read_text())
    CHECKER.validate(content)
    assert check_content(content, "dataset.json") == []


LABELS = PLAIN["labels"]


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {key: value for key, value in PLAIN.items() if key != "labels"},
        PLAIN | {"lables": {}},
        PLAIN | {"channel_names": ["CT"]},
        PLAIN | {"channel_names": {"1": "CT"}},
        PLAIN | {"channel_names": {"0": ""}},
        PLAIN | {"file_ending": "nii.gz"},
        PLAIN | {"file_ending": ".dcm"},
        PLAIN | {"numTraining": "3"},
        PLAIN | {"overwrite_image_reader_writer": "NibabelIo"},
        PLAIN | {"label_encoding": "onehot"},
        PLAIN | {"labels": {"0": "background", "1": "liver"}},
        PLAIN | {"labels": {"background": 0}},
        PLAIN | {"labels": {"liver": 1, "tumour": 2}},
        PLAIN | {"labels": LABELS | {"background": 1}},
        PLAIN | {"labels": LABELS | {"background": [0]}},
        PLAIN | {"labels": LABELS | {"background": "0"}},
        PLAIN | {"labels": LABELS | {"vessel": "3"}},
        PLAIN | {"labels": LABELS | {"vessel": 0}},
        PLAIN | {"labels": LABELS | {"vessel": -1}},
        PLAIN | {"labels": LABELS | {"vessel": 2.5}},
        PLAIN | {"labels": LABELS | {"vessel": 2**31}},
        PLAIN | {"labels": LABELS | {"": 3}},
        PLAIN | {"labels": LABELS | {"ignore": "3"}},
        PLAIN | {"ignore_label": 0},
        PLAIN | {"ignore_label": [255, "254"]},
        PLAIN | {"unannotated": {"a": ["liver"]}},
        PLAIN | {"dataset": {}},
        PLAIN | {"dataset": {"a": {"images": "x", "label": "y"}}},
        PLAIN | {"dataset": {"a": {"images": ["x"]}}},
        {key: value for key, value in REGIONS.items() if key != "regions_class_order"},
        REGIONS | {"labels": REGIONS["labels"] | {"whole": []}},
        REGIONS | {"labels": REGIONS["labels"] | {"whole": [1, 1]}},
        REGIONS | {"regions_class_order": [1, "2", 5]},
        MULTILABEL | {"labels": LABELS | {"whole": [1, 2]}},
        MULTILABEL | {"regions_class_order": [1, 2, 4]},
        MULTILABEL | {"unannotated": {"a": "anterior"}},
        PLAIN | {"mirror_pairs": ["liver", "tumour"]},
        PLAIN | {"mirror_pairs": [["liver"]]},
        PLAIN | {"mirror_pairs": [["liver", "liver"]]},
        PLAIN | {"mirror_pairs": [["liver", 2]]},
        PLAIN | {"left_right_axis": "X"},
    ],
    ids=lambda content: json.dumps(content)[-60:],
)
def test_typical_faults_are_refused_by_both(content):
    assert not CHECKER.is_valid(content)
    assert check_content(content, "dataset.json") != []
