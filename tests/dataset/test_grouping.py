import json

import pytest

from segkit.dataset.grouping import groups_of, propose_column, propose_rule
from segkit.dataset.tables import read_table
from segkit.errors import UserError

IDS = ("P1_t0", "P1_t1", "P2_t0", "P3_t0", "P3_t4")


def table(folder, text, name="cases.csv"):
    (folder / name).write_text(text)
    return read_table(folder / name)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (r"^(.+)_", ["P1", "P1", "P2", "P3", "P3"]),
        (r"^P\d", ["P1", "P1", "P2", "P3", "P3"]),
        (r"_t(\d)", ["0", "1", "0", "0", "4"]),
        (r"(?:P)(\d)", ["1", "1", "2", "3", "3"]),
        ("images", IDS),
        (None, IDS),
    ],
)
def test_the_first_group_or_the_match_names_the_group(rule, expected):
    assert groups_of(IDS, rule, None) == dict(zip(IDS, expected, strict=True))


def test_a_column_of_the_table_comes_first(tmp_path):
    rows = "".join(f"{case},{site}\n" for case, site in zip(IDS, "ABABA", strict=True))
    given = table(tmp_path, "case,site\n" + rows)
    assert groups_of(IDS, "site", given) == dict(zip(IDS, "ABABA", strict=True))
    assert groups_of(IDS, "^..", given)["P3_t0"] == "P3"
    with pytest.raises(UserError, match=r"'sites' is no column(.|\n)*did you mean 'site'"):
        groups_of(IDS, "sites", given)
    with pytest.raises(UserError, match="there is no table"):
        groups_of(IDS, "site", None)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("^(.+", "no regular expression"),
        ("^(P[12])_", "finds no group in 2 of 5 cases: P3_t0, P3_t4"),
        ("(x)?P", "finds no group in 5 of 5"),
    ],
)
def test_rules_that_do_not_fit(rule, message):
    with pytest.raises(UserError, match=message.replace("(", "\\(") if "(" in message else message):
        groups_of(IDS, rule, None)


def test_cases_of_one_image_join_their_groups():
    same = [("P1_t1", "P2_t0"), ("P2_t0", "P3_t4")]
    assert set(groups_of(IDS, "^(.+)_", None, same).values()) == {"P1"}
    found = groups_of(IDS, "images", None, same)
    assert found == {**dict(zip(IDS, IDS, strict=True)), "P2_t0": "P1_t1", "P3_t4": "P1_t1"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("case,patient,site\na,P1,X\nb,P1,\n", "t.csv"),
        ("\ufeffCase;patient;site\r\na;P1;X\r\nb;P1;\r\n\r\n", "t.csv"),
        ("id\tpatient\tsite\na\tP1\t X \nb\tP1\n", "t.tsv"),
        (
            json.dumps(
                [{"case": "a", "patient": "P1", "site": "X"}, {"case": "b", "patient": "P1"}]
            ),
            "t.json",
        ),
        (
            json.dumps({"a": {"patient": "P1", "site": "X"}, "b": {"patient": "P1", "site": None}}),
            "t.json",
        ),
    ],
)
def test_tables(tmp_path, text, name):
    given = table(tmp_path, text, name)
    assert given.columns == ("patient", "site")
    assert given.values("patient", ["a", "b"]) == {"a": "P1", "b": "P1"}
    with pytest.raises(UserError, match="1 of 2 cases have no site: b"):
        given.values("site", ["a", "b"])
    with pytest.raises(UserError, match="2 of 3 cases have no patient: c, d"):
        given.values("patient", ["a", "c", "d"])
    with pytest.raises(UserError, match="did you mean 'patient'"):
        given.values("patients", ["a"])


def test_numbers_of_json_are_text(tmp_path):
    given = table(tmp_path, json.dumps([{"case": "a", "age": 61, "x": 1.5, "y": True}]), "t.json")
    assert given.rows["a"] == {"age": "61", "x": "1.5", "y": "True"}


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "t.csv", "empty"),
        ("case,site\na,X\na,Y\n", "t.csv", "two rows for the case 'a'"),
        ("case,site,site\na,X,Y\n", "t.csv", "two columns are called 'site'"),
        ("case,site\na,X,Y\n", "t.csv", "row 2 has 3 values"),
        ("3", "t.json", "expected a list of rows"),
        ("[1]", "t.json", "expected a list of rows"),
        ("[]", "t.json", "empty"),
    ],
)
def test_what_is_no_table(tmp_path, text, name, message):
    with pytest.raises(UserError, match=message):
        table(tmp_path, text, name)


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (["P001_t0", "P001_t1", "P002_t0", "P003_t0", "P003_t1"], r"^(.+)[_-][A-Za-z]+-?\d+$"),
        (["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1", "sub-02_ses-2", "sub-a3_x"],
         r"^(sub-[^_]+)_"),
        (["patient001_frame01", "patient001_frame12", "patient002_frame01", "patient002_frame14",
          "patient003_frame01"], r"^(.+)[_-][A-Za-z]+-?\d+$"),
        (["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000",
          "BraTS-GLI-00002-001", "BraTS-GLI-00005-000"], r"^(.+)[_-]\d{1,3}$"),
        (["12_L", "12_R", "13_L", "13_R", "14_L"], r"^(.+)[_-][A-Za-z]+$"),
        ([f"hippocampus_{i:03d}" for i in range(40)], None),
        ([f"BRATS_{grade}_{i:04d}" for grade in ("HG", "LG") for i in range(30)], None),
        ([f"FLARE22_Tr_{i:04d}" for i in range(40)], None),
        ([f"BraTS20_Training_{i:03d}" for i in range(40)], None),
        ([f"s{i:04d}" for i in range(40)], None),
        ([f"P{i}_t0" for i in range(40)], None),
        (["a"], None),
    ],
)  # fmt: skip
def test_proposals(names, rule):
    proposal = propose_rule(names)
    assert (proposal and proposal[0]) == rule
    if proposal:
        assert proposal[1] == len(set(groups_of(names, rule, None).values()))


def test_a_column_with_patients_is_proposed(tmp_path):
    rows = "".join(f"{case},{case[:2]},{i}\n" for i, case in enumerate(IDS))
    given = table(tmp_path, "case,Patient_ID,subject\n" + rows)
    assert propose_column(given, IDS) == ("Patient_ID", 3)
    assert propose_column(given, [*IDS, "other"]) is None
    assert propose_column(table(tmp_path, "case,site\na,X\nb,X\n"), ["a", "b"]) is None
