"""Zip files that would do harm are refused before anything is written."""

import random
import shutil
import stat
import zipfile

import pytest

from segkit.errors import UserError
from segkit.interop.archive import Limits, unpack


def packed(tmp_path, *members, compression=zipfile.ZIP_DEFLATED):
    """Write a zip of (name or ZipInfo, content)."""
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def special(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def everything(_):
    return True


def unpacked(tmp_path, *members, wanted=everything, limits=None):
    unpack(packed(tmp_path, *members), tmp_path / "out", wanted, limits)
    return {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}


def test_only_what_is_wanted_is_written(tmp_path):
    members = [("a/b/plans.json", "1"), ("a/c.png", "2"), ("a/empty/", "")]
    assert unpacked(tmp_path, *members, wanted=lambda n: n.endswith(".json")) == {"a/b/plans.json"}
    assert (tmp_path / "out" / "a" / "b" / "plans.json").read_text() == "1"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".", "names no file"),
        ("../evil.txt", "leads out"),
        ("a/../../evil.txt", "leads out"),
        ("..\\evil.txt", "leads out"),
        ("/tmp/evil.txt", "absolute"),
        ("C:\\evil.txt", "absolute"),
        ("C:evil.txt", "absolute"),
        ("\\\\host\\share\\evil.txt", "absolute"),
        ("a\\b.txt", "no name that every system takes"),
        ("a\nb.txt", "no name that every system takes"),
        (special("link.txt", stat.S_IFLNK | 0o777), "is a link"),
        (special("pipe.txt", stat.S_IFIFO | 0o644), "no ordinary file"),
        (special("disk.txt", stat.S_IFBLK | 0o644), "no ordinary file"),
    ],
)
def test_names_and_kinds_that_would_do_harm(tmp_path, name, reason):
    with pytest.raises(UserError) as error:
        unpacked(tmp_path, ("good.txt", "1"), (name, "/etc/passwd"))
    assert reason in error.value.what
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"model.zip"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("a.txt", "a.txt"), "'a.txt' occurs 2 times"),
        (("a.txt", "A.TXT"), "'a.txt' occurs 2 times"),
        (("a", "a/b.txt"), "is a file and a folder"),
    ],
)
def test_names_that_collide(tmp_path, names, reason):
    with pytest.raises(UserError, match=reason):
        unpacked(tmp_path, *((name, "1") for name in names))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(members=1), "holds 2 files"),
        (Limits(total_bytes=3000), "to 4001 bytes, more than 3000"),
        (Limits(small_bytes=10, ratio=5), "would grow"),
    ],
)
def test_more_than_the_limits_allow(tmp_path, limits, reason):
    members = [("a.txt", "0" * 4000), ("b.txt", "1")]
    with pytest.raises(UserError, match=reason):
        unpacked(tmp_path, *members, limits=limits)
    assert not (tmp_path / "out").exists()


def test_a_bomb_by_the_usual_limits(tmp_path):
    with pytest.raises(UserError, match="would grow"):
        unpacked(tmp_path, ("a.txt", bytes(17 << 20)), wanted=lambda _: False)


def test_a_member_without_a_name(tmp_path):
    path = packed(tmp_path, ("a.txt", "1"))
    path.write_bytes(path.read_bytes().replace(b"a.txt", b"\0.txt"))
    with pytest.raises(UserError, match="'' names no file"):
        unpack(path, tmp_path / "out", everything)


def test_an_encrypted_member(tmp_path):
    path = packed(tmp_path, ("a.txt", "1" * 100))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="encrypted"):
        unpack(path, tmp_path / "out", everything)


def test_a_size_that_lies_is_not_believed(tmp_path):
    path = packed(tmp_path, ("a.txt", "1" * 5000))
    content = bytearray(path.read_bytes())
    for start, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = content.index(start) + offset
        content[place : place + 4] = (10).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="damaged"):
        unpack(path, tmp_path / "out", everything)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"no zip at all"])
def test_no_zip(tmp_path, content):
    (tmp_path / "model.zip").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        unpack(tmp_path / "model.zip", tmp_path / "out", everything)


def test_a_damaged_member_leaves_nothing_behind(tmp_path):
    path = packed(tmp_path, ("a.txt", "first"), ("b.txt", bytes(range(200)) * 20))
    content = bytearray(path.read_bytes())
    place = content.index(b"b.txt") + 40
    content[place : place + 20] = bytes(20)
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="damaged"):
        unpack(path, tmp_path / "out", everything)
    assert {p.name for p in tmp_path.iterdir()} == {"model.zip"}


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_packed_in_other_ways_are_refused(tmp_path, compression):
    path = packed(tmp_path, ("a.txt", "1" * 100), compression=compression)
    with pytest.raises(UserError, match=r"neither stored nor deflated.*: a\.txt"):
        unpack(path, tmp_path / "out", everything)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_whatever_is_damaged_is_told_and_leaves_nothing_behind(tmp_path, compression):
    members = [("a.txt", "first"), ("b/c.txt", bytes(range(200)))]
    path = packed(tmp_path, *members, compression=compression)
    whole, rng = path.read_bytes(), random.Random(0)
    refused = []
    for _ in range(600):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        end = rng.choice((len(whole), rng.randrange(len(whole))))
        path.write_bytes(bytes(content[:end]))
        try:
            unpack(path, tmp_path / "out", everything)
        except UserError as error:
            refused.append(error.what)
            assert {p.name for p in tmp_path.iterdir()} == {"model.zip"}
        else:
            shutil.rmtree(tmp_path / "out")
    assert len(refused) > 300
    assert not [what for what in refused if "cannot write" in what]


def test_a_folder_is_no_zip(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read: .*directory"):
        unpack(tmp_path, tmp_path / "out", everything)


def test_missing(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        unpack(tmp_path / "model.zip", tmp_path / "out", everything)


def test_too_little_room(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3))
    with pytest.raises(UserError, match="free"):
        unpacked(tmp_path, ("a.txt", "1234"))
