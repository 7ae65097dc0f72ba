"""Files are whole or absent; JSON is strict."""

import json
import os

import numpy as np
import pytest

from segkit.errors import UserError
from segkit.files import (
    atomic_folder,
    atomic_write,
    content_hash,
    read_artifact,
    read_json,
    write_artifact,
    write_json,
)


def test_a_draft_that_is_deleted_is_given_up(tmp_path):
    with atomic_folder(tmp_path / "a") as draft:
        draft.rmdir()
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("before", [True, False])
def test_a_folder_is_whole_or_as_it_was(tmp_path, before):
    path = tmp_path / "folder"
    if before:
        path.mkdir()
        (path / "old").touch()

    def fill(*names, fail=False):
        with atomic_folder(path) as draft:
            for name in names:
                (draft / name).touch()
            if fail:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        fill("a", fail=True)
    assert [file.name for file in path.glob("*")] == ["old"] * before
    assert list(tmp_path.iterdir()) == [path] * before
    fill("a", "b")
    assert sorted(file.name for file in path.iterdir()) == ["a", "b"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", [1, 2])
def test_an_old_folder_is_put_back_when_it_cannot_be_replaced(tmp_path, monkeypatch, failing):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    moves = []

    def move(source, target, replace=os.replace):
        moves.append(source)
        if len(moves) == failing:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", move)
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as draft:
        (draft / "new").touch()
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]
