"""Strict JSON: every fault has its place, a caret and a mend."""

import json

import pytest

from segkit.errors import UserError
from segkit.json_text import DEEPEST, LONGEST_NUMBER, is_int, parse_json, shown


def refused(text):
    with pytest.raises(UserError) as caught:
        parse_json(text, "dataset.json")
    assert caught.value.where == "dataset.json"
    assert caught.value.what.startswith("not valid JSON")
    return caught.value


@pytest.mark.parametrize(
    "text", ['{"a": [1, -2.5e3, true, null, "ü\\n\\ud83d\\ude00"]}', " 3 ", "[]"]
)
def test_json_is_read(text):
    assert parse_json(text, "x") == json.loads(text)


@pytest.mark.parametrize(
    ("text", "place", "fix"),
    [
        ("", "line 1 column 1", "the file is empty"),
        (" \n ", "line", "the file is empty"),
        ('{"a": 1,}', "line 1 column", "delete the comma"),
        ('{"a": [1, 2,\n]}', "line", "delete the comma"),
        ('{"a": 1,\n "b" 2}', "line 2 column 6", "put a colon"),
        ('{"a": [1, 2}', "line 1 column 12", "put a comma before it, or the closing bracket"),
        ('{"a": .5}', "line 1 column 7", "correct the JSON at the caret"),
        ('{"a": 1 "b": 2}', "line 1 column 9", "put a comma"),
        ("{'a': 1}", "line 1 column 2", "use double quotes"),
        ("{a: 1}", "line 1 column 2", 'put it in double quotes: "a"'),
        ('{"a": True}', "line 1 column 7", "write true"),
        ('{"a": None}', "line 1 column 7", "write null"),
        ('{"a": 1, // one\n "b": 2}', "line 1 column 10", "delete the comment"),
        ('{"a": 1', "line 1 column 8", "ends too early"),
        ('{"a": 1\n', "line 2 column 1", "ends too early"),
        ('{"a": "b', "line 1 column 7", "close the quote"),
        ('{"a": "b\n", "c": 1}', "line 1 column 9", "close the quote"),
        ('{"a": "N", "b": NaN}', "line 1 column 17: NaN is not a JSON number", "finite"),
        ('{"-Infinity": -Infinity}', "line 1 column 15: -Infinity is not", "finite"),
        ('{"a":\n1e999}', "line 2 column 1: the number is too large", "finite"),
        (
            "[" + "9" * (LONGEST_NUMBER + 1) + "]",
            "line 1 column 2: the number has 301 dig",
            "finite",
        ),
        (r'{"a": "\\ud800 \ud83d\ude00 \ud800"}', "column 29: half of a Unicode", "itself"),
    ],
)
def test_faults_have_a_place_and_a_mend(text, place, fix):
    error = refused(text)
    assert place in error.what
    assert fix in error.fix


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * (DEEPEST + 2) + "]" * (DEEPEST + 2)])
def test_deep_nesting_is_refused(text):
    assert "nested deeper than 100 levels" in refused(text).what


def test_nesting_is_read_up_to_the_limit():
    assert parse_json("[" * DEEPEST + "]" * DEEPEST, "x")


@pytest.mark.parametrize(
    ("text", "line", "caret"),
    [
        ('{"a": 1,\n "b" 2}', ' "b" 2}', "     ^"),
        ('{"a": 1,\r\n\t\t"b" 2}\r\n', '  "b" 2}', "      ^"),
        ('{"a\u2028": 1,\n"b" 2}', '"b" 2}', "    ^"),
        (
            "[" + "1," * 500 + "x" + ",1" * 500 + "]",
            "1," * 30 + "x" + ",1" * 29 + ",",
            " " * 60 + "^",
        ),
    ],
)
def test_the_caret_points_at_the_fault(text, line, caret):
    assert refused(text).what.split("\n")[1:] == [line, caret]


def test_keys_that_occur_twice_are_told_with_their_values():
    text = '{"a": {"x": 1, "x": [2]}, "b": 1, "b": 2, "b": 3}'
    told = [
        "the key 'x' occurs twice, as 1 and [2]",
        "the key 'b' occurs 3 times, as 1 and 2 and 3",
    ]
    assert refused(text).what == f"not valid JSON: {told[0]}; {told[1]}"
    doubled = []
    assert parse_json(text, "x", doubled=doubled) == {"a": {"x": [2]}, "b": 3}
    assert doubled == told


def test_values_are_shown_as_json_and_shortened():
    assert shown({"a": [1, "ü", None]}) == '{"a": [1, "ü", null]}'
    assert shown("\ud800") == '"\\ud800"'
    long = shown(list(range(10_000)))
    assert len(long) < 140
    assert long.startswith("[0, 1, ")
    assert long.endswith("9999]")


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_only_integers_are_integers(value):
    assert is_int(1)
    assert not is_int(value)
