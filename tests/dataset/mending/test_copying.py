import os

import pytest

from segkit.dataset.mending.copying import check_place, copy_rest, place_files, place_of
from segkit.errors import UserError


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "Dataset007_Toy"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "dataset.json").write_text("{}")
    (folder / "imagesTr" / "a_0000.nii.gz").write_bytes(b"a")
    (folder / ".hidden").write_text("kept")
    return folder


@pytest.mark.parametrize("place", ["", "imagesTr/new", ".."])
def test_neither_inside_nor_around(tree, place):
    with pytest.raises(UserError, match="would lie"):
        check_place((tree / place).resolve(), tree)


def test_only_new_or_empty_folders(tree, tmp_path):
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty", tree)
    check_place(tmp_path / "new" / "one", tree)
    (tmp_path / "empty" / "x").write_text("")
    with pytest.raises(UserError, match="not empty"):
        check_place(tmp_path / "empty", tree)
    with pytest.raises(UserError, match="file"):
        check_place(tmp_path / "empty" / "x", tree)


def test_everything_is_copied_but_what_is_there(tree, tmp_path):
    draft = tmp_path / "draft"
    draft.mkdir()
    (draft / "dataset.json").write_text("mended")
    copy_rest(tree, draft, {})
    assert (draft / "dataset.json").read_text() == "mended"
    assert (draft / "imagesTr" / "a_0000.nii.gz").read_bytes() == b"a"
    assert (draft / ".hidden").read_text() == "kept"


def test_links_are_followed_and_nothing_is_shared(tree, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.nii.gz").write_bytes(b"b")
    (tree / "labelsTr").symlink_to(elsewhere)
    os.link(elsewhere / "b.nii.gz", tree / "hard.nii.gz")
    tree.joinpath("dataset.json").chmod(0o444)
    copy_rest(tree, tmp_path / "copy", {})
    copies = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert len(copies) == 5
    for path in copies:
        assert not path.is_symlink()
        assert path.stat().st_nlink == 1
        assert path.stat().st_mode & 0o200
        path.write_bytes(b"changed")
    assert (elsewhere / "b.nii.gz").read_bytes() == b"b"
    assert (tree / "dataset.json").read_text() == "{}"


def test_links_that_lead_nowhere_or_in_circles_are_named(tree, tmp_path):
    (tree / "gone.nii.gz").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError) as caught:
        copy_rest(tree, tmp_path / "copy", {})
    assert caught.value.where == tree / "gone.nii.gz"
    (tree / "gone.nii.gz").unlink()
    (tree / "imagesTr" / "round").symlink_to(tree)
    with pytest.raises(UserError, match="around it"):
        copy_rest(tree, tmp_path / "copy", {})


def test_files_from_elsewhere_come_along(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    for name in ("a.tif", "a.json", "other.json"):
        (tmp_path / "elsewhere" / name).write_text(name)
    label = {"label": str(tree / "imagesTr" / "a_0000.nii.gz"), "note": 5}
    cases = {"a": {"images": ["$ELSEWHERE/a.tif", "../elsewhere/a.tif"], **label}}
    placed, places = place_files(cases, tree)
    new = "outside/0000/a.tif"
    assert placed == {"a": {"images": [new, new], "label": "imagesTr/a_0000.nii.gz", "note": 5}}
    assert place_of(tree / ".." / "elsewhere" / "a.tif", tree, places) == new
    assert place_of(tree / "x.nii", tree, places) == "x.nii"
    copy_rest(tree, tmp_path / "copy", places)
    outside = sorted((tmp_path / "copy" / "outside" / "0000").iterdir())
    assert [path.name for path in outside] == ["a.json", "a.tif"]


def test_a_folder_of_masks_from_elsewhere(tree, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "liver.nii.gz").write_bytes(b"m")
    _, places = place_files({"a": {"images": [], "label": "../masks"}}, tree)
    copy_rest(tree, tmp_path / "copy", places)
    place = place_of(masks / "liver.nii.gz", tree, places)
    assert (tmp_path / "copy" / place).read_bytes() == b"m"


def test_files_from_elsewhere_take_nobodys_place(tree, tmp_path):
    """A copy that holds an ``outside`` of its own is mended once more."""
    (tree / "outside" / "0000").mkdir(parents=True)
    (tree / "outside" / "0000" / "image.nii.gz").write_bytes(b"a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "image.nii.gz").write_bytes(b"b")
    cases = {
        "a": {"images": ["outside/0000/image.nii.gz"]},
        "b": {"images": ["../b/image.nii.gz"]},
    }
    placed, places = place_files(cases, tree)
    copy_rest(tree, tmp_path / "copy", places)
    for name, content in (("a", b"a"), ("b", b"b")):
        (place,) = placed[name]["images"]
        assert (tmp_path / "copy" / place).read_bytes() == content


def test_two_files_for_one_place_are_refused(tree, tmp_path):
    other = tmp_path / "a_0000.nii.gz"
    other.write_bytes(b"b")
    with pytest.raises(UserError, match="another file has its place"):
        copy_rest(tree, tmp_path / "copy", {other: "imagesTr/a_0000.nii.gz"})


def test_voxels_in_a_file_of_another_name_come_along(tree, tmp_path):
    (tmp_path / "voxels").mkdir()
    (tmp_path / "voxels" / "1.raw").write_bytes(b"v")
    (tmp_path / "a.mhd").write_text("NDims = 3\nElementDataFile = voxels/1.raw\n")
    _, places = place_files({"a": {"images": ["../a.mhd"]}}, tree)
    copy_rest(tree, tmp_path / "copy", places)
    assert (tmp_path / "copy/outside/0000/voxels/1.raw").read_bytes() == b"v"
