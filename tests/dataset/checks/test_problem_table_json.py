"""Every kind of problem of a dataset.json: what is written, and what is told about it."""

import json
from pathlib import Path

import pytest
from json_examples import MULTILABEL, PLAIN, REGIONS, SIDED, SIDED_REGIONS, VALID

from segkit.dataset.checks.content import check_content
from segkit.dataset.description import load_description, read_content
from segkit.dataset.problems import CODES
from segkit.dataset.validation import validate_dataset
from segkit.errors import UserError

LABELS, PARTS, NESTED = PLAIN["labels"], MULTILABEL["labels"], REGIONS["labels"]
TEXT = json.dumps(PLAIN)
V1 = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, "numTraining": 3}


def without(content, *keys):
    return {key: value for key, value in content.items() if key not in keys}


def labels(**entries):
    return PLAIN | {"labels": {"background": 0, **entries}}


def parts(**entries):
    return MULTILABEL | {"labels": {"background": 0, **entries}, "unannotated": {}}


def order(*values):
    return REGIONS | {"regions_class_order": list(values)}


def pairs(*pairs):
    return SIDED | {"mirror_pairs": list(pairs)}


def case(**entry):
    return PLAIN | {"dataset": {"a": {"images": ["a"], "label": "b"} | entry}}


TABLE = [
    # code, dataset.json (content, text, bytes, or None for no file), message, remedy
    ("SK-D001", None, "file not found", "check the path"),
    ("SK-D002", TEXT[:-1] + ', "labels": 1}', "the key 'labels' occurs twice", "delete all but"),
    ("SK-D002", TEXT.replace('": 1', '": 1, "liver": 2'), "twice, as 1 and 2", "delete all but"),
    ("SK-D003", ["labels"], 'an object with keys and values, got ["labels"]', "write an object"),
    ("SK-D003", "null", "got null", "write an object"),
    ("SK-D004", without(PLAIN, "labels"), "'labels' is missing", 'add "labels": {"background": 0'),
    (
        "SK-D004",
        without(PLAIN, "channel_names"),
        "'channel_names' is missing",
        'add "channel_names"',
    ),
    (
        "SK-D004",
        without(PLAIN, "file_ending") | {"file_endings": ".png"},
        "'file_ending' is missing",
        "rename the key 'file_endings' to 'file_ending'",
    ),
    ("SK-D005", without(PLAIN, "numTraining"), "'numTraining' is missing", "nnU-Net needs it"),
    ("SK-D006", PLAIN | {"my_notes": 1}, 'unknown key "my_notes"', "(or delete the key)"),
    ("SK-D006", PLAIN | {"dataset_id": 4}, 'unknown key "dataset_id"', "did you mean 'dataset'?"),
    (
        "SK-D006",
        case(spacing=[1, 1, 1]),
        'unknown key "spacing"',
        "valid names: images, label, mask",
    ),
    (
        "SK-D007",
        V1,
        "nnU-Net v1 format",
        '"channel_names": {"0": "CT"}, "labels": {"background": 0',
    ),
    ("SK-D008", PLAIN | {"channel_names": {}}, "the numbers 0, 1, ...", 'write {"0": "NAME'),
    ("SK-D008", PLAIN | {"channel_names": ["CT"]}, 'got ["CT"]', 'write {"0": "CT"}'),
    ("SK-D008", PLAIN | {"channel_names": {"1": "CT"}}, 'got {"1": "CT"}', 'write {"0": "CT"}'),
    ("SK-D008", PLAIN | {"channel_names": {"0": 7}}, 'got {"0": 7}', 'write {"0": "NAME'),
    ("SK-D009", PLAIN | {"file_ending": "nii.gz"}, 'is "nii.gz"', 'write ".nii.gz"'),
    ("SK-D009", PLAIN | {"file_ending": ".nii.gzip"}, 'is ".nii.gzip"', "mean '.nii.gz'?"),
    ("SK-D009", PLAIN | {"file_ending": None}, "is null", "use one of .nii.gz, .nii"),
    (
        "SK-D010",
        PLAIN | {"overwrite_image_reader_writer": "NibabelIo"},
        'unknown image reader "NibabelIo"',
        "did you mean 'NibabelIO'? (or delete the key)",
    ),
    (
        "SK-D010",
        PLAIN | {"overwrite_image_reader_writer": "Tiff3DIO"},
        "Tiff3DIO does not read .nii.gz",
        "reads .tif, .tiff",
    ),
    ("SK-D011", PLAIN | {"dataset": []}, "expected cases, got []", 'write {"CASE": {"images"'),
    ("SK-D011", PLAIN | {"dataset": {"a": 1}}, "expected images and label, got 1", "write"),
    ("SK-D011", PLAIN | {"dataset": {"a": {"images": ["x"]}}}, "'label' is missing", "write"),
    ("SK-D011", case(images="a"), 'images is "a", not a list of paths', "write"),
    ("SK-D011", case(images=["a", 1]), "1 is not a path", "write"),
    ("SK-D011", case(mask=None), "null is not a path", "write"),
    ("SK-D012", PLAIN | {"numTraining": "3"}, 'numTraining is "3"', "number of training cases"),
    ("SK-D013", PLAIN | {"file_ending": ".jpg"}, "JPEG images are lossy", "keep labels as .png"),
    ("SK-D014", PLAIN | {"label_encoding": "onehot"}, 'is "onehot"', 'write "multilabel"'),
    ("SK-D015", PLAIN | {"ignore_labels": 9}, '"ignore_labels"', "did you mean 'ignore_label'?"),
    ("SK-D015", PLAIN | {"LABEL_ENCODING": None}, "unknown key", "did you mean 'label_encoding'?"),
    ("SK-D015", case(masks="c"), 'unknown key "masks"', "did you mean 'mask'?"),
    ("SK-D016", '{\n "labels": {"a": 1,}\n}', "line 2 column", "delete the comma"),
    ("SK-D016", TEXT[:40], "line 1 column", "ends too early"),
    ("SK-D016", "", "line 1 column 1", "the file is empty"),
    ("SK-D016", TEXT.replace("3", "NaN"), "NaN is not a JSON number", "write a finite number"),
    ("SK-D001", TEXT.encode("utf-16"), "not UTF-8 text", "save the file as UTF-8"),
    ("SK-D016", "[" * 5000, "nested deeper than 100 levels", "close brackets"),
    ("SK-D020", PLAIN | {"labels": ["liver"]}, 'names and values, got ["liver"]', "write {"),
    ("SK-D020", PLAIN | {"labels": {}}, "got {}", 'write {"background": 0'),
    ("SK-D020", labels(ignore=2), "nothing besides background and ignore", "declare the classes"),
    (
        "SK-D021",
        PLAIN | {"labels": {"liver": 1}},
        "background is not declared",
        'add "background": 0',
    ),
    (
        "SK-D021",
        PLAIN | {"labels": {"Background": 0, "liver": 1}},
        "background is not declared",
        'write "background": 0 in place of "Background": 0',
    ),
    ("SK-D022", labels(background=1, liver=2), "background is 1", "the label files must hold 0"),
    ("SK-D023", V1, "maps values to names", 'write "labels": {"background": 0, "liver": 1}'),
    (
        "SK-D023",
        PLAIN | {"labels": {"0": "background", "liver": 1}},
        "maps values to names",
        'write "labels": {"background": 0, "liver": 1}',
    ),
    (
        "SK-D023",
        PLAIN | {"labels": {"0": "a", "1": "a"}},
        "two values share a name",
        "a name of its",
    ),
    ("SK-D024", labels(liver="1"), 'the value of "liver" is "1"', 'write "liver": 1'),
    ("SK-D024", labels(liver=2.0), 'the value of "liver" is 2.0', 'write "liver": 2'),
    ("SK-D024", labels(liver=True), 'the value of "liver" is true', "write an integer above 0"),
    ("SK-D025", labels(liver=-1), 'the value of "liver" is -1', "declared with ignore_label"),
    ("SK-D026", labels(a=1, b=1), '"a" and "b" are both 1', "a value of its own"),
    ("SK-D027", labels(liver=0), 'the value of "liver" is 0', "0 belongs to background"),
    ("SK-D027", labels(liver=2**31), "is 2147483648", "use values up to 2147483647"),
    ("SK-D028", labels(liver=1, ignore=1), '1 is also a value of "liver"', "such as 2"),
    ("SK-D028", labels(liver=1, ignore=0), "0 is also the background", "such as 2"),
    ("SK-D028", PLAIN | {"ignore_label": [9, 2]}, '2 is also a value of "tumour"', "such as 3"),
    ("SK-D028", PLAIN | {"ignore_label": "9"}, 'label "9" is no integer', "write one integer"),
    ("SK-D028", PLAIN | {"ignore_label": 2**31}, "is out of range", "use a value between"),
    ("SK-D028", labels(a=1, b=2**31 - 1, ignore=2**31 - 1), 'also a value of "b"', "such as 2"),
    ("SK-D028", parts(b=2, c=4) | {"ignore_label": 1}, "1 is also what a mask", "such as -1"),
    ("SK-D028", MULTILABEL | {"ignore_label": 4}, '4 is also a value of "posterior"', "such as -1"),
    (
        "SK-D029",
        labels(background=[0], liver=1),
        "background is [0], a list",
        'write "background": 0',
    ),
    (
        "SK-D030",
        without(REGIONS, "regions_class_order"),
        "which value each is written with is missing",
        'write "regions_class_order": [1, 2, 5]',
    ),
    ("SK-D031", order(1, 2), "a list of 3 values, one for each of", "[1, 2, 5]"),
    ("SK-D031", REGIONS | {"regions_class_order": 5}, "got 5", "[1, 2, 5]"),
    ("SK-D032", order(1, 2, 3), "3 is not among the declared values [1, 2, 5]", "[1, 2, 5]"),
    ("SK-D032", order(1, 2, "5"), '"5" is not among the declared values', "[1, 2, 5]"),
    ("SK-D033", REGIONS | {"labels": NESTED | {"core": [2, 2]}}, '"core" is [2, 2]', "each once"),
    ("SK-D033", REGIONS | {"labels": NESTED | {"core": []}}, '"core" is []', "each once"),
    ("SK-D034", PLAIN | {"regions_class_order": [1, 2]}, "no label is a list", "delete"),
    (
        "SK-D035",
        REGIONS
        | {"labels": {"background": 0, "core": [2, 5], "whole": [1, 2, 5], "enhancing": 5}}
        | {"regions_class_order": [2, 1, 5]},
        '"whole" is painted after "core", which lies inside it',
        "in the order whole, core, enhancing, from the outermost in, and write "
        '"regions_class_order": [1, 2, 5]',
    ),
    ("SK-D036", order(1, 1, 5), '"core" is written as 1, which is not one of', "as 2: write"),
    ("SK-D036", order(5, 2, 1), '"enhancing" is written as 1', '"regions_class_order": [1, 2, 5]'),
    ("SK-D037", labels(background="0", liver=1), 'background is "0", which is text', "write"),
    ("SK-D037", labels(background=None, liver=1), "background is null", 'write "background": 0'),
    (
        "SK-D038",
        labels(whole=[1, 2, 3, 7], edema=1, core=2, rim=3) | {"regions_class_order": [1, 1, 2, 3]},
        'no other label knows 7 of the region "whole"',
        "correct the number",
    ),
    ("SK-D039", parts(whole=[1, 2], core=2), '"whole" is a region, [1, 2]', "a mask (or bit)"),
    ("SK-D039", MULTILABEL | {"regions_class_order": [1]}, "are not painted over", "delete"),
    (
        "SK-D040",
        parts(a=1, b=2, c=5),
        "[1, 2, 5] are neither bits nor numbers without a gap",
        'such as {"a": 1, "b": 2, "c": 4}, or the numbers 1 to 3',
    ),
    ("SK-D041", parts(**{f"s{i}": 2**i for i in range(63)}), "holds 62", "numbers 1 to 63"),
    ("SK-D041", labels(**{f"c{i}": i for i in range(1, 32768)}), "32767 classes", "up to 32766"),
    ("SK-D042", PLAIN | {"labels": LABELS | {" ": 3}}, 'a label is called " "', "give every class"),
    ("SK-D043", PLAIN | {"labels": LABELS | {"Liver ": 3}}, '"liver" and "Liver "', "names that"),
    ("SK-D043", PLAIN | {"labels": LABELS | {"Ignore": 3}}, '"Ignore" is an ordinary', "'ignore'"),
    ("SK-D044", parts(**{"left/right": 1}), '"left/right" cannot be a file name', 'without "/"'),
    ("SK-D045", MULTILABEL | {"unannotated": ["a"]}, 'cases with names, got ["a"]', "write"),
    ("SK-D045", MULTILABEL | {"unannotated": {"a": "whole"}}, 'has "whole", not a list', "write"),
    ("SK-D045", without(MULTILABEL, "labels") | {"unannotated": {"a": None}}, "has null", "write"),
    ("SK-D046", MULTILABEL | {"unannotated": {"a": ["anterio"]}}, "not declared", "'anterior'?"),
    ("SK-D047", PLAIN | {"unannotated": {"a": ["liver"]}}, "only where structures", "ignore_label"),
    ("SK-D049", order(2, 2, 5), '"whole" is written as 2, which means "core"', "as 1: write"),
    ("SK-D050", pairs("left lung", "right lung"), "pairs of names, got", 'write "mirror_pairs"'),
    ("SK-D050", pairs(["left lung"]), 'got [["left lung"]]', 'write "mirror_pairs"'),
    ("SK-D050", pairs(["left lung", 2]), 'got [["left lung", 2]]', 'write "mirror_pairs"'),
    ("SK-D051", pairs(["left lung", "rigth lung"]), '"rigth lung"', "did you mean 'right lung'"),
    ("SK-D051", pairs(["left lung", "background"]), 'called "background"', "valid names"),
    ("SK-D052", pairs(["heart", "heart"]), '"heart" is its own mirror image', "leave the pair"),
    (
        "SK-D052",
        pairs(["left lung", "right lung"], ["right lung", "heart"]),
        '"right lung" is in 2 pairs',
        "leave it in one",
    ),
    (
        "SK-D053",
        SIDED_REGIONS | {"mirror_pairs": [["left", "right"]]},
        '"left" is a region, the classes [1, 2]',
        "pair the classes (label_1, nodule l, label_3, nodule r)",
    ),
    (
        "SK-D054",
        SIDED_REGIONS | {"mirror_pairs": [["nodule l", "nodule r"]]},
        'the region "left" becomes none of the regions',
        "pair the other classes",
    ),
    ("SK-D055", SIDED | {"left_right_axis": "lr"}, 'left_right_axis is "lr"', 'write "x"'),
    ("SK-D057", SIDED | {"file_ending": ".png"}, ".png files do not say", '"left_right_axis": "x"'),
]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "dataset.json"


def write(file, given):
    if isinstance(given, bytes):
        file.write_bytes(given)
    elif given is not None:
        file.write_text(given if isinstance(given, str) else json.dumps(given))


@pytest.mark.parametrize(
    ("code", "given", "message", "remedy"), TABLE, ids=lambda value: str(value)[:40]
)
def test_problem(file, caplog, code, given, message, remedy):
    write(file, given)
    report = validate_dataset(file.parent, jobs=1)
    told = [problem for problem in report.problems if problem.code == code]
    assert any(message in problem.message and remedy in problem.fix for problem in told), told
    assert all(problem.severity == CODES[code][0] for problem in told)
    assert all(problem.where.startswith(str(file)) for problem in told)
    assert f"  {code} {CODES[code][1]}" in str(report)
    json.dumps(report.to_json(), allow_nan=False)
    if CODES[code][0] == "error":
        with pytest.raises(UserError, match=code):
            load_description(file)
    else:
        load_description(file)
        assert code in caplog.text


def test_every_code_is_in_the_table():
    # SK-D056 is told by validate only: see test_sides.py.
    told = {code for code in CODES if code.startswith("SK-D")} - {"SK-D056"}
    assert told == {code for code, *_ in TABLE}


@pytest.mark.parametrize("content", VALID.values(), ids=VALID)
def test_valid_files_are_without_errors(file, content):
    write(file, content)
    description = load_description(file)
    assert description.labels.num_outputs > 0
    codes = {problem.code for problem in check_content(content, file)}
    assert codes <= {"SK-D005", "SK-D013"}


def test_a_byte_order_mark_is_read_over(file):
    write(file, b"\xef\xbb\xbf" + TEXT.encode())
    assert read_content(file) == (PLAIN, [])


def test_unannotated_structures_are_in_the_description(file):
    write(file, MULTILABEL)
    description = load_description(file)
    assert description.unannotated == {"a": ("anterior",), "b": ("whole", "posterior"), "c": ()}
    write(file, PLAIN)
    assert load_description(file).unannotated == {}


def test_a_remedy_for_regions_is_valid_itself(file):
    """Whatever order of the regions is proposed is accepted when it is written."""
    content = without(REGIONS, "regions_class_order")
    content["labels"] = {"background": 0, "rim": 4, "core": [2, 4], "all": [1, 2, 3, 4]}
    (found,) = check_content(content, file)
    assert "in the order all, core, rim," in found.fix
    proposed = json.loads(found.fix.split('"regions_class_order": ')[1])
    names = {"background": 0, "all": [1, 2, 3, 4], "core": [2, 4], "rim": 4}
    assert check_content(content | {"labels": names, "regions_class_order": proposed}, file) == []


def test_problems_name_the_key(file):
    (found,) = check_content(PLAIN | {"labels": LABELS | {"liver": 2.5}}, Path("d/dataset.json"))
    assert found.where == "d/dataset.json, key labels"
