"""Files are whole or absent; JSON is strict."""

import json

import numpy as np
import pytest

from segkit.errors import UserError
from segkit.files import (
    atomic_write,
    content_hash,
    parse_json,
    read_artifact,
    read_json,
    write_artifact,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way():
        with atomic_write(path) as stream:
            stream.write(b"half of the new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_round_trip(tmp_path):
    content = {"a": [1, 2.5, None, "ü"], "b": {"c": True}}
    write_json(tmp_path / "deep" / "x.json", content)
    assert read_json(tmp_path / "deep" / "x.json") == content


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"dice": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "b" 2}', "line 2 column 6"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ("", "line 1 column 1"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_faulty_json_is_named(text, message):
    with pytest.raises(UserError, match=message):
        parse_json(text, "dataset.json")


def test_the_caret_points_at_the_fault():
    with pytest.raises(UserError) as caught:
        parse_json('{"a": 1,\n "b" 2}', "x")
    assert ' "b" 2}\n     ^' in caught.value.what


@pytest.mark.parametrize("content", [b"\xff\xfe\x00broken", None])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_artifacts_state_version_and_source(tmp_path):
    path = tmp_path / "x.json"
    write_artifact(path, {"a": 1}, version=3, made_from="abc")
    content = json.loads(path.read_text())
    assert content["format_version"] == 3
    assert content["made_from"] == "abc"
    assert content["segkit_version"]
    assert read_artifact(path, version=3)["a"] == 1
    with pytest.raises(UserError, match="format version 3"):
        read_artifact(path, version=4)


def test_content_hash_ignores_key_order_only():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert content_hash(np.float64(1.5)) == content_hash(1.5)
