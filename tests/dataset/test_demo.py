import time

import numpy as np
import pytest

from segkit.dataset.cases import training_cases
from segkit.dataset.demo import TEST_CASES, make_demo_dataset
from segkit.dataset.description import load_description
from segkit.dataset.image_io import read_image, read_labels
from segkit.dataset.validation import validate_dataset
from segkit.errors import UserError


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "Dataset900_Demo"
    start = time.perf_counter()
    make_demo_dataset(folder)
    assert time.perf_counter() - start < 15  # about one second on an idle machine
    return folder


def labels_of(folder, part):
    return [read_labels(path).array for path in sorted((folder / f"labels{part}").iterdir())]


def test_layout(demo):
    description = load_description(demo)
    assert description.channel_names == ("MR_T1", "MR_T2")
    assert description.labels.describe() == "0 background, 1 organ, 2 lesion"
    cases = training_cases(description)
    assert [case.id for case in cases] == [f"demo_{i:03d}" for i in range(1, 17)]
    assert len(list((demo / "imagesTs").iterdir())) == 2 * TEST_CASES
    assert len(list((demo / "labelsTs").iterdir())) == TEST_CASES
    assert "." not in "".join(path.name[0] for path in demo.parent.iterdir())


def test_it_is_valid(demo):
    report = validate_dataset(demo, jobs=1)
    assert report.ok
    assert not [problem for problem in report.problems if problem.severity == "error"]


@pytest.mark.parametrize("part", ["Tr", "Ts"])
def test_one_case_of_each_part_has_no_lesion(demo, part):
    maps = labels_of(demo, part)
    assert all((labels == 1).sum() > 500 for labels in maps)
    assert sum((labels == 2).any() for labels in maps) == len(maps) - 1


def test_images(demo):
    geometries = set()
    for case in training_cases(load_description(demo)):
        volume, labels = read_image(case.images), read_labels(case.label)
        outside = (volume.array == 0).all(axis=0)
        assert volume.array.shape[1:] == labels.array.shape[1:]
        assert 16 <= volume.shape[0] <= 20
        assert all(56 <= n <= 72 for n in volume.shape[1:])
        # Zero in one channel means zero in both, nothing labelled lies there, and it is more
        # than a frame that cropping would remove.
        assert np.array_equal(outside, volume.array[0] == 0)
        assert not labels.array[0][outside].any()
        inside = np.nonzero(~outside)
        box = tuple(slice(axis.min(), axis.max() + 1) for axis in inside)
        assert outside[box].mean() > 0.1
        assert np.allclose(volume.geometry.spacing_mm, (3, 1, 1), rtol=0.051)
        assert volume.geometry.orientation() == "RAS"
        geometries.add((volume.geometry.origin, volume.geometry.direction))
    assert len(geometries) == 16


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_demo_dataset(tmp_path / name, cases=2, seed=seed)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.nii.gz"))
    assert len(files) == 3 * (2 + TEST_CASES)
    content = {name: [(tmp_path / name / f).read_bytes() for f in files] for name in "abc"}
    assert content["a"] == content["b"]
    assert all(ours != theirs for ours, theirs in zip(content["a"], content["c"], strict=True))


def test_an_empty_folder_is_filled_and_a_full_one_refused(tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    make_demo_dataset(folder, cases=2)
    before = (folder / "dataset.json").read_bytes()
    with pytest.raises(UserError, match="not empty"):
        make_demo_dataset(folder, cases=2, seed=1)
    assert (folder / "dataset.json").read_bytes() == before


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("segkit.dataset.demo.write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        make_demo_dataset(tmp_path / "demo", cases=2)
    assert list(tmp_path.iterdir()) == []


def test_too_few_cases_are_refused(tmp_path):
    with pytest.raises(UserError, match="too few"):
        make_demo_dataset(tmp_path / "demo", cases=1)
